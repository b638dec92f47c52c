/** Boxes: mirrors `src-tauri/src/boxes.rs`. */
import { invoke } from '@tauri-apps/api/core';

export interface Box {
  id: number;
  name: string;
  /** The edge that the app starts on this machine. */
  bundled: boolean;
  active: boolean;
  address: string | null;
  /** The first digits of its SHA-256. */
  certificate: string | null;
  model: string | null;
  /** Where the token is; null if it is lost, and for the bundled one. */
  kept: 'system' | 'file' | null;
  createdAt: number;
  usedAt: number | null;
}

export interface FoundBox {
  name: string;
  model: string;
  version: string;
  address: string;
  certificate: string;
}

export interface BoxTest {
  model: string;
  version: string;
  rttMs: number;
}

export const boxesList = () => invoke<Box[]>('boxes_list');
/** Listens to the local network for some seconds. */
export const boxesDiscover = () => invoke<FoundBox[]>('boxes_discover');
/**
 * Reads a code with the camera, on phones; null where the camera may not be used. The person can leave
 * it, and then it rejects.
 */
export async function boxScan(): Promise<string | null> {
  type Allowed = { camera: 'granted' | 'denied' | 'prompt' | 'prompt-with-rationale' };
  const { camera } = await invoke<Allowed>('plugin:barcode-scanner|request_permissions');
  if (camera !== 'granted') return null;
  const options = { formats: ['QR_CODE'], windowed: false };
  return (await invoke<{ content: string }>('plugin:barcode-scanner|scan', options)).content;
}
/** `place` is a link, or an address when there is a code. */
export const boxPair = (place: string, code: string | null) =>
  invoke<Box>('box_pair', { place, code });
export const boxChoose = (id: number) => invoke<void>('box_choose', { id });
export const boxRename = (id: number, name: string) => invoke<void>('box_rename', { id, name });
export const boxTest = (id: number) => invoke<BoxTest>('box_test', { id });
/** With `hereOnly` it is forgotten even if it cannot be told. */
export const boxRemove = (id: number, hereOnly: boolean) =>
  invoke<void>('box_remove', { id, hereOnly });
