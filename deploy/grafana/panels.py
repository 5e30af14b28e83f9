"""The few shapes that our dashboards are made of, in terms of Grafana's own builders.

A query is (PromQL, legend). Every dashboard has the variables $datasource and $job; most have $model or $instance.
"""

from collections.abc import Iterable, Mapping, Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
Panel = timeseries.Panel | stat.Panel | heatmap.Panel | table.Panel
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Of 24 columns: two panels a line, eight figures a line.
WIDE, HALF, EIGHTH = 24, 12, 3
TALL, LOW = 8, 4


def of(metric: str, *matchers: str) -> str:
    """Return a metric's series of the chosen job that match the others, too."""
    matched = ",".join(('job="$job"', *matchers))
    return f"{metric}{{{matched}}}"


def rate(metric: str, *matchers: str) -> str:
    """Return what a counter grows by in a second, over the time that suits the picture's width."""
    return f"rate({of(metric, *matchers)}[$__rate_interval])"


def share(part: str, whole: str) -> str:
    """Return a ratio that has no sample, rather than NaN, where there is nothing to take a share of."""
    return f"{part} / ({whole} > 0)"


def targets(queries: Iterable[Query]) -> list[prometheus.Dataquery]:
    """Return queries over time, lettered."""
    return [
        prometheus.Dataquery().expr(expr).legend_format(legend).range().ref_id(chr(ord("A") + number))
        for number, (expr, legend) in enumerate(queries)
    ]


def graph(
    title: str,
    unit: str,
    *queries: Query,
    about: str,
    stacked: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Return lines over time.

    Args:
        title: of the panel.
        unit: Grafana's name of it.
        queries: what is drawn.
        about: what to read off it.
        stacked: whether lines add up.
        most: upper end of the axis; None: as it comes.
    """
    legend = (
        common.VizLegendOptions()
        .show_legend(True)  # noqa: FBT003 - the builder's signature
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(25 if stacked else 5)
        .line_width(1)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .span(HALF)
        .height(TALL)
        .targets(targets(queries))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel if most is None else panel.max(most)


def figure(
    title: str, unit: str, expr: str, *, about: str, warn: float | None = None, alarm: float | None = None
) -> stat.Panel:
    """Return one number of now, green until `warn`, yellow until `alarm`, then red."""
    steps = [Threshold(value=None, color="green")]
    steps += [Threshold(value=warn, color="yellow")] if warn is not None else []
    steps += [Threshold(value=alarm, color="red")] if alarm is not None else []
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .no_value("–")
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .span(EIGHTH)
        .height(LOW)
        .targets(targets([(expr, title)]))
    )


def density(title: str, unit: str, expr: str, *, about: str) -> heatmap.Panel:
    """Return how a histogram's buckets fill over time; `expr` sums by (le)."""
    query = targets([(expr, "{{le}}")])[0].format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .calculate(False)  # noqa: FBT003 - the builder's signature
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .span(HALF)
        .height(TALL)
        .targets([query])
    )


def listing(title: str, expr: str, columns: Sequence[str], *, about: str) -> table.Panel:
    """Return the labels of series as they are now, in columns."""
    hidden = ["Time", "Value", "__name__"]
    order = {name: number for number, name in enumerate(columns)}
    query = (
        prometheus.Dataquery()
        .expr(expr)
        .legend_format("")
        .instant()
        .format(PromQueryFormat.TABLE)
        .ref_id("A")
    )
    return (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(WIDE)
        .height(TALL)
        .targets([query])
        .transformations(
            [
                DataTransformerConfig(
                    id_val="organize",
                    options={"excludeByName": dict.fromkeys(hidden, True), "indexByName": order},
                )
            ]
        )
    )


def variable(name: str, query: str, *, several: bool) -> dashboard.QueryVariable:
    """Return a variable of label values: one of them, or any number."""
    made = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    return made.multi(True).include_all(True).all_value(".*") if several else made  # noqa: FBT003 - the builder's


def fill(made: dashboard.Dashboard, rows: Mapping[str, Iterable[Panel]]) -> dashboard.Dashboard:
    """Put panels below each other, under the titles of their rows."""
    for title, panels in rows.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def board(name: str, title: str, about: str, *choices: str) -> dashboard.Dashboard:
    """Return a dashboard without panels, whose viewer chooses job and these labels of its metrics."""
    made = (
        dashboard.Dashboard(title)
        .uid(f"regard-{name}")
        .description(about)
        .tags(["regard"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("regard")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["regard"])
            .keep_time(True)  # noqa: FBT003 - the builder's signature
            .include_vars(True)  # noqa: FBT003
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("job", "label_values(regard_ready, job)", several=False))
    )
    sources = {"model": "regard_items_total", "instance": "regard_ready"}
    for each in choices:
        query = f'label_values({sources[each]}{{job="$job"}}, {each})'
        made.with_variable(variable(each, query, several=True))
    return made
