/**
 * Keeps the window above a phone's keyboard. Android shrinks the page itself (interactive-widget in
 * index.html); on iOS the keyboard lies over the page, and only the visual viewport shrinks.
 */
export function followKeyboard() {
  const viewport = window.visualViewport;
  if (!viewport) return;
  const { style } = document.documentElement;
  const follow = () => {
    // Pinch zoom shrinks it as well, and must not change the layout.
    const covered = viewport.scale === 1 && viewport.height < window.innerHeight - 1;
    if (covered) style.setProperty('--app-height', `${viewport.height}px`);
    else style.removeProperty('--app-height');
    // The system scrolls the page to show the field, which is in view now.
    if (covered) window.scrollTo(0, 0);
  };
  viewport.addEventListener('resize', follow);
  follow();
}
