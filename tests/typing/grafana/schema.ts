// What a dashboard of ours may hold: the types of the Grafana that docker-compose.yml runs, and of panels those that we
// use.
//
// JSON knows no enums, so `Plain` stands for every enum by its values. An unknown field is an error, because the
// dashboards are written as literals of these types.
import type { Options as Heatmap } from '@grafana/schema/dist/types/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen.js';
import type { Options as Stat } from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.js';
import type { FieldConfig as TableFields, Options as Table } from '@grafana/schema/dist/types/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen.js';
import type { FieldConfig as TimeSeriesFields, Options as TimeSeries } from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.js';
import type * as grafana from '@grafana/schema/dist/types/raw/dashboard/x/dashboard_types.gen.js';

type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
type Without<T, K extends keyof T> = { [P in keyof T as P extends K ? never : P]: T[P] };

// The Prometheus data source's query, which the package does not publish.
interface Query {
  refId: string;
  expr: string;
  legendFormat: string;
  range?: boolean;
  instant?: boolean;
  format?: 'time_series' | 'table' | 'heatmap';
}

interface Fields<Custom> extends Without<grafana.FieldConfigSource, 'defaults'> {
  defaults: Without<grafana.FieldConfig, 'custom'> & { custom?: Custom };
}

interface PanelOf<Type extends string, Options, Custom>
  extends Without<grafana.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> {
  type: Type;
  id: number;
  title: string;
  description: string;
  datasource: { type: 'prometheus'; uid: '${datasource}' };
  options?: Options;
  fieldConfig?: Fields<Custom>;
  targets: [Query, ...Query[]];
}

type Panel =
  | PanelOf<'timeseries', TimeSeries, TimeSeriesFields>
  | PanelOf<'stat', Partial<Stat>, never>
  | PanelOf<'heatmap', Partial<Heatmap>, never>
  | PanelOf<'table', Partial<Table>, Partial<TableFields>>
  | (Without<grafana.RowPanel, 'panels' | 'type'> & { type: 'row'; panels: [] });

export type Dashboard = Plain<Without<grafana.Dashboard, 'panels'> & { uid: string; panels: Panel[] }>;
