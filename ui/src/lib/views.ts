/** The views of the window, in the order of the navigation. A view is loaded when it is opened. */
import type { Component } from 'svelte';
import type { IconName } from '../components/Icon.svelte';
import { common } from '../i18n/common';

type Load = () => Promise<{ default: Component }>;
export type ViewId = keyof typeof common.views;

export interface View {
  id: ViewId;
  icon: IconName;
  /** Absent for the chat, which is in the first paint. */
  load?: Load;
}

export const views: readonly View[] = [
  { id: 'chat', icon: 'chat' },
  {
    id: 'metrics',
    icon: 'metrics',
    load: () => import('../components/metrics/MetricsView.svelte'),
  },
  { id: 'boxes', icon: 'boxes', load: () => import('../components/boxes/BoxesView.svelte') },
  { id: 'models', icon: 'models', load: () => import('../components/models/ModelsView.svelte') },
  {
    id: 'settings',
    icon: 'settings',
    load: () => import('../components/settings/SettingsView.svelte'),
  },
];

export const viewName = (id: ViewId) => common.views[id];
