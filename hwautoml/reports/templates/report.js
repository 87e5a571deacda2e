"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = () => window.innerWidth < 760;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  // Plotly reads a subset of HTML in labels; names of classes and networks are plain text.
  const plain = (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const clip = (value, length) => (value.length > length ? value.slice(0, length - 1) + "…" : value);
  const significant = (value) => {
    if (value === null || value === undefined) return "–";
    const decimals = Math.max(2 - Math.floor(Math.log10(Math.abs(value) || 1)), 0);
    return value.toFixed(Math.min(decimals, 12));
  };
  const ms = (value) => significant(value) + " ms";
  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1) + " %");
  const config = { displaylogo: false, responsive: true, displayModeBar: false };

  function layout(extra) {
    const axis = { gridcolor: color("grid"), linecolor: color("line"), zeroline: false, ticks: "", automargin: true,
      title: { standoff: 12, font: { size: 13, color: color("muted") } } };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("text") },
      margin: { l: 52, r: 16, t: 34, b: 48 }, hovermode: "closest",
      hoverlabel: { bgcolor: color("surface"), bordercolor: color("line"), align: "left", font: { color: color("text"), size: 12.5 } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", font: { color: color("muted") } },
    };
    const { xaxis, yaxis, ...rest } = extra;
    return { ...base, ...rest, xaxis: merge(axis, xaxis), yaxis: merge(axis, yaxis) };
  }
  const merge = (axis, own = {}) => ({ ...axis, ...own, title: { ...axis.title, ...(own.title || {}) } });

  // The range that holds all values with some air, on a linear or logarithmic axis.
  function range(values, log) {
    const scaled = log ? values.map(Math.log10) : values;
    const low = Math.min(...scaled), high = Math.max(...scaled);
    const air = 0.06 * (high - low || Math.abs(high) || 1);
    return [log ? low - air : Math.max(low - air, 0), high + air];
  }
  const error = (points, value, interval) => ({
    type: "data", symmetric: false, thickness: 1.4, width: 4, color: "inherit",
    array: points.map((p) => (p[interval] ? Math.max(p[interval][1] - p[value], 0) : 0)),
    arrayminus: points.map((p) => (p[interval] ? Math.max(p[value] - p[interval][0], 0) : 0)),
  });
  function withBars(trace, x, y) {
    if (x) trace.error_x = { ...x, color: trace.marker.color };
    if (y) trace.error_y = { ...y, color: trace.marker.color };
    return trace;
  }

  function drawFront(element) {
    const all = data.candidates, y = (points) => points.map((p) => 100 * p.y);
    const front = all.filter((p) => p.front).sort((a, b) => a.x - b.x);
    const others = all.filter((p) => !p.front);
    const measured = data.specialised.filter((p) => p.fastest && p.accuracy !== null);
    const xs = [...all.map((p) => p.x), ...measured.map((p) => p.measured)];
    const limit = data.limit_ms, near = limit !== null && limit < 3 * Math.max(...xs) && limit > Math.min(...xs) / 3;
    const inView = near ? [...xs, limit] : xs;
    const log = Math.min(...inView) > 0 && Math.max(...inView) / Math.min(...inView) > 12;
    const hover = (p) => `<b>${plain(p.id)}</b><br>${percent(p.y)} validation ${plain(data.metric)}<br>${ms(p.x)}` +
      `${p.std ? " ± " + significant(p.std) : ""}, ${p.origin}` +
      (p.values ? "<br>" + plain(p.values).replace(/((?:[^,]*,){3}[^,]*),/g, "$1,<br>") : "");
    const dots = (points, name, tone, size, opacity) => ({
      type: "scatter", mode: "markers", name, x: points.map((p) => p.x), y: y(points), text: points.map(hover),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color: color(tone), size, opacity, line: { width: 0 } },
    });
    const stars = all.filter((p) => p.chosen);
    const traces = [
      dots(others, "other candidates", "dot", 6, 0.75),
      { type: "scatter", mode: "lines", x: front.map((p) => p.x), y: y(front), hoverinfo: "skip", showlegend: false,
        line: { color: color("front"), width: 1.5, shape: "hv" }, opacity: 0.7 },
      dots(front, "front (" + (front.length && front.every((p) => p.origin === front[0].origin) ? front[0].origin : "predicted") + ")", "front", 8, 1),
    ];
    const whereMeasured = (points, name, tone, symbol, size) => withBars({
      type: "scatter", mode: "markers", name, x: points.map((p) => p.measured), y: points.map((p) => 100 * p.accuracy),
      text: points.map((p) => `<b>${plain(p.id)}</b>${p.chosen ? " (chosen)" : ""}<br>${percent(p.accuracy)} validation ${plain(data.metric)}` +
        `<br>${ms(p.measured)} measured with ${plain(p.runtime)}<br>95 % interval ${significant(p.interval[0])}–${ms(p.interval[1])}` +
        `<br>predicted ${ms(p.predicted)}`),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color: color(tone), symbol, size, line: { color: color("surface"), width: 1.5 } },
    }, error(points, "measured", "interval"));
    const chosen = measured.filter((p) => p.chosen);
    traces.push(whereMeasured(measured.filter((p) => !p.chosen), "measured after fine-tuning", "measured", "diamond", 10));
    if (chosen.length) traces.push(whereMeasured(chosen, "chosen", "chosen", "star", 17));
    else if (stars.length) traces.push({ ...dots(stars, "chosen", "chosen", 17, 1), marker: { color: color("chosen"), symbol: "star", size: 17 } });

    const xRange = range(inView, log);
    const shapes = [], annotations = [];
    if (near) {
      const edge = log ? Math.pow(10, xRange[1]) : xRange[1];
      shapes.push(
        { type: "rect", layer: "below", x0: limit, x1: edge, y0: 0, y1: 1, yref: "paper", fillcolor: color("limit"), opacity: 0.06, line: { width: 0 } },
        { type: "line", x0: limit, x1: limit, y0: 0, y1: 1, yref: "paper", line: { color: color("limit"), width: 1.5, dash: "dash" } });
      // Below the front on its slow side there is room, unless the plot ends there.
      const at = log ? Math.log10(limit) : limit, right = at < xRange[0] + 0.75 * (xRange[1] - xRange[0]);
      annotations.push({ x: at, y: 0, yref: "paper", xanchor: right ? "left" : "right", yanchor: "bottom", showarrow: false,
        xshift: right ? 6 : -6, text: "limit " + limit + " ms", font: { color: color("limit"), size: 12.5 } });
    } else if (limit !== null) {
      const over = limit > Math.max(...xs);
      annotations.push({ x: over ? 1 : 0, xref: "paper", y: 0, yref: "paper", xanchor: over ? "right" : "left", yanchor: "bottom", showarrow: false,
        text: over ? `limit ${limit} ms → all within` : `← limit ${limit} ms, all over`, font: { color: color("limit"), size: 12.5 } });
    }
    Plotly.react(element, traces.filter((t) => t.x.length), layout({
      shapes, annotations, legend: { ...layout({}).legend, font: { size: narrow() ? 11 : 12.5, color: color("muted") } },
      margin: { l: 52, r: 16, t: narrow() ? 70 : 40, b: 48 },
      xaxis: { type: log ? "log" : "linear", range: xRange, title: { text: "latency on " + plain(data.target) + ", ms" + (log ? " (logarithmic)" : "") },
        ...(log ? { dtick: "D2" } : {}) },
      yaxis: { title: { text: "validation " + plain(data.metric) + ", %" } },
    }), config);
  }

  function drawPrediction(element) {
    const points = data.specialised.filter((p) => p.predicted !== null);
    const runtimes = [...new Set(points.map((p) => p.runtime))].sort();
    const ends = range(points.flatMap((p) => [p.predicted, p.measured, ...p.interval, ...(p.predicted_interval || [])]), false);
    const tones = ["tone0", "tone1", "tone2", "tone4"], symbols = ["circle", "diamond", "square", "cross"];
    const traces = [
      { type: "scatter", mode: "lines", x: [...ends, ends[1], ends[0]], y: [1.1 * ends[0], 1.1 * ends[1], 0.9 * ends[1], 0.9 * ends[0]],
        fill: "toself", fillcolor: color("muted"), opacity: 0.1, line: { width: 0 }, hoverinfo: "skip", name: "±10 %", showlegend: false },
      { type: "scatter", mode: "lines", x: ends, y: ends, line: { color: color("muted"), width: 1, dash: "dot" }, hoverinfo: "skip", showlegend: false },
    ];
    runtimes.forEach((runtime, index) => {
      const own = points.filter((p) => p.runtime === runtime);
      traces.push(withBars({
        type: "scatter", mode: "markers", name: plain(runtime), x: own.map((p) => p.predicted), y: own.map((p) => p.measured),
        text: own.map((p) => `<b>${plain(p.id)}</b>${p.chosen ? " (chosen)" : ""}<br>predicted ${ms(p.predicted)}<br>measured ${ms(p.measured)} with ${plain(runtime)}` +
          (p.foretold ? `<br>off by ${(100 * (p.measured / p.predicted - 1)).toFixed(1)} %` : "<br>predicted for another runtime")),
        hovertemplate: "%{text}<extra></extra>",
        marker: { opacity: own.map((p) => (p.foretold ? 1 : 0.45)), color: color(tones[index % tones.length]), symbol: own.map((p) => (p.chosen ? "star" : symbols[index % symbols.length])),
          size: own.map((p) => (p.chosen ? 15 : 9)), line: { color: color("surface"), width: 1 } },
      }, error(own, "predicted", "predicted_interval"), error(own, "measured", "interval")));
    });
    Plotly.react(element, traces, layout({
      showlegend: true,
      xaxis: { range: ends, title: { text: "predicted, ms" } },
      yaxis: { range: ends, title: { text: "measured median, ms" } },
    }), config);
  }

  function drawMatrix(element, { counts: matrix, names }) {
    const size = names.length;
    const share = matrix.map((row) => { const sum = row.reduce((a, b) => a + b, 0); return row.map((n) => (sum ? n / sum : 0)); });
    const indices = names.map((_, i) => i);
    const label = names.map((name) => plain(clip(name, narrow() ? 10 : 18)));
    const step = Math.ceil(size / (narrow() ? 20 : 34));
    const ticks = indices.filter((i) => i % step === 0);
    const longest = Math.max(...names.map((name) => name.length));
    // Few mistakes among many images would vanish on a linear scale.
    const scale = [[0, 0], [0.01, 0.16], [0.05, 0.32], [0.2, 0.55], [0.5, 0.75], [1, 1]].map(([at, mix]) => [at, blend(color("surface"), color("front"), mix)]);
    const axis = { tickmode: "array", tickvals: ticks, ticktext: ticks.map((i) => label[i]), showgrid: false, tickfont: { size: size > 20 ? 10 : 12 } };
    const annotations = size > 15 ? [] : indices.flatMap((i) => indices.filter((j) => matrix[i][j]).map((j) => ({
      x: j, y: i, text: String(matrix[i][j]), showarrow: false, font: { size: narrow() && size > 8 ? 10 : 12.5, color: share[i][j] > 0.35 ? color("surface") : color("text") },
    })));
    Plotly.react(element, [{
      type: "heatmap", z: share, zmin: 0, zmax: 1, colorscale: scale, showscale: false, xgap: size > 40 ? 0 : 1, ygap: size > 40 ? 0 : 1,
      text: matrix.map((row, i) => row.map((n, j) => `${plain(names[i])}<br>taken for ${plain(names[j])}<br><b>${n}</b> images, ${percent(share[i][j])}`)),
      hovertemplate: "%{text}<extra></extra>",
    }], layout({
      annotations, margin: { l: 40, r: 8, t: 8, b: 40 },
      xaxis: { ...axis, title: { text: "predicted " + plain(data.decision) }, tickangle: size > 12 || longest > 6 ? -45 : 0, constrain: "domain", range: [-0.5, size - 0.5] },
      yaxis: { ...axis, title: { text: "true " + plain(data.decision) }, range: [size - 0.5, -0.5], scaleanchor: "x", constrain: "domain" },
    }), config);
  }
  function blend(from, to, mix) {
    const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const a = parts(from), b = parts(to);
    return "rgb(" + a.map((value, i) => Math.round(value + mix * (b[i] - value))).join(",") + ")";
  }

  function drawAll() {
    const plots = { "plot-front": drawFront, "plot-prediction": drawPrediction };
    for (const [id, matrix] of Object.entries(data.matrices)) plots["plot-" + id] = (element) => drawMatrix(element, matrix);
    for (const [id, draw] of Object.entries(plots)) {
      const element = document.getElementById(id);
      if (element) draw(element);
    }
  }

  // Sorting: numbers by value, missing ones last in both directions.
  function makeSortable(table) {
    const body = table.tBodies[0], headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].textContent.trim();
        const numeric = column > 1 && column !== 4 && column !== 6;
        const rows = [...body.rows].map((row) => ({ row, text: key(row), number: parseFloat(key(row)) }));
        rows.sort((a, b) => {
          if (!numeric) return (down ? -1 : 1) * a.text.localeCompare(b.text);
          if (isNaN(a.number) || isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
          return (down ? -1 : 1) * (a.number - b.number);
        });
        body.append(...rows.map((item) => item.row));
      });
    });
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  drawAll();
  dark.addEventListener("change", drawAll);
  let wasNarrow = narrow();
  window.addEventListener("resize", () => { if (narrow() !== wasNarrow) { wasNarrow = narrow(); drawAll(); } });
  document.documentElement.dataset.ready = "yes";
})();
