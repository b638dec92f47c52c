/** All charts that are on the screen in one PNG, with their titles, in the theme's colours. */
import type { ChartModel } from '../../lib/metrics';

const WIDTH = 1000;
const MARGIN = 32;
const TITLE = 34;
/** So that it is sharp in print too. */
const SCALE = 2;

export async function drawAll(root: HTMLElement, models: ChartModel[]): Promise<Uint8Array> {
  const css = getComputedStyle(document.documentElement);
  const color = (name: string) => css.getPropertyValue(`--${name}`).trim();
  const shown = models.flatMap((model) => {
    const canvas = root.querySelector<HTMLCanvasElement>(
      `[data-testid="chart-${model.id}"] canvas`,
    );
    if (!canvas) return [];
    const height = ((WIDTH - 2 * MARGIN) * canvas.height) / Math.max(canvas.width, 1);
    return [{ title: model.title, canvas, height }];
  });
  const height = shown.reduce((sum, one) => sum + TITLE + one.height + MARGIN, MARGIN);
  const sheet = document.createElement('canvas');
  sheet.width = WIDTH * SCALE;
  sheet.height = height * SCALE;
  const pen = sheet.getContext('2d')!;
  pen.scale(SCALE, SCALE);
  pen.fillStyle = color('surface');
  pen.fillRect(0, 0, WIDTH, height);
  pen.fillStyle = color('text');
  pen.font = '600 18px system-ui, sans-serif';
  let y = MARGIN;
  for (const one of shown) {
    pen.fillText(one.title, MARGIN, y + 18);
    pen.drawImage(one.canvas, MARGIN, y + TITLE, WIDTH - 2 * MARGIN, one.height);
    y += TITLE + one.height + MARGIN;
  }
  const blob = await new Promise<Blob | null>((done) => sheet.toBlob(done, 'image/png'));
  return new Uint8Array((await blob?.arrayBuffer()) ?? []);
}
