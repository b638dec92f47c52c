/**
 * The menu of a right click is the browser's, with "Reload" and "Back". It is of use in text fields, and
 * nowhere else. A long press on a phone is how text is selected there, and stays.
 */
const FIELD = 'input, textarea, [contenteditable]';

export function leaveMenuToFields(target: Document = document) {
  target.addEventListener('contextmenu', (event) => {
    const inField = event.target instanceof Element && event.target.closest(FIELD) !== null;
    if (!inField && window.matchMedia('(hover: hover)').matches) event.preventDefault();
  });
}
