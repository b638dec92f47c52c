import { mount, unmount } from 'svelte';
import App from './App.svelte';
import StartupError from './components/StartupError.svelte';
import { painted, startup } from './lib/api/conversations';
import './app.css';
import { leaveKeysToInputMethods } from './lib/keys';
import { leaveMenuToFields } from './lib/menu';
import { followKeyboard } from './lib/viewport';

followKeyboard();
leaveKeysToInputMethods();
leaveMenuToFields();
const target = document.getElementById('app')!;

function open(problem: string | null) {
  if (problem === null) {
    mount(App, { target });
    requestAnimationFrame(() => {
      // Seen in the profiler, and by the test of the cold start.
      performance.mark('usable');
      // The frame is on the screen before the next one: models are loaded from then on.
      requestAnimationFrame(() => void painted().catch(() => {}));
    });
    return;
  }
  const screen: object = mount(StartupError, {
    target,
    props: { problem, onready: () => void unmount(screen).then(() => open(null)) },
  });
}

// A core that does not answer this is no reason to show nothing.
startup(false)
  .catch(() => null)
  .then(open);
