import { expect, it } from 'vitest';
import { Speed } from './transfer';

it('is unknown at first and then the average of the last seconds', () => {
  const speed = new Speed();
  expect(speed.add(0, 0)).toBeNull();
  expect(speed.add(100, 500)).toBeNull();
  expect(speed.add(1000, 1000)).toBe(1000);
  for (let at = 2000; at <= 20_000; at += 1000) speed.add(at, 1000 + (at - 1000) * 3);
  expect(speed.add(21_000, 61_000)).toBeCloseTo(3000);
});

it('starts anew when a transfer begins again', () => {
  const speed = new Speed();
  speed.add(0, 0);
  speed.add(1000, 9000);
  expect(speed.add(2000, 0)).toBeNull();
  expect(speed.add(3000, 2000)).toBe(2000);
});
