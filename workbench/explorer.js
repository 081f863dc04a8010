// The one view of every explorer: JupyterLab hosts it through anywidget, an exported page through the
// stand-in model at the end. A model holds `spec` and `payload` (see explorer.py: blocks of float32, one
// entry for each state of the controls a block depends on) and one index `at_<control>` for each control.
//
// A new kind of panel is one entry in KINDS: draw(ctx, p) paints the data in canvas pixels and may return
// SVG for what follows the page's colours; hover(p, px, py) says what lies under the pointer; swatch(ctx, i,
// series) paints series i for the legend, or returns it as SVG; optional: height(panel), down (the first row on
// top), wide (over all columns), arranged(p): called when x, y or the box changed, and for a picture, which has no grid,
// aspect(panel, ends): width to height, or 0 to fill the room. `p` offers x and y (value -> pixel, and back by .invert),
// z (ends of the colours), box, panel, read(block), say(template).

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C"]; // Okabe-Ito
const DASHES = [[], [8, 4], [2, 3], [9, 3, 2, 3], [14, 4], [5, 2], [1, 4]];
const SHAPES = [
  "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0z", "M-3,-3h6v6h-6z", "M0,-4L4,3H-4z", "M0,-4.5L4.5,0L0,4.5L-4.5,0z",
  "M0,4L4,-3H-4z", "M-4,-1.5h2.5v-2.5h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5z", "M-4,-1.5h8v3h-8z",
].map((path) => new Path2D(path));
const VIRIDIS = ("44015448186a472d7b4240863b528b33638d2c728e26828e21918c1fa08828ae803fbc735ec96284d44baddc30d8e219" +
  "fde725").match(/../g).map((hex) => parseInt(hex, 16));
// 256 colours as the 32-bit little-endian ABGR words of an ImageData; between 17 anchors the map is straight.
const COLOUR_OF = Uint32Array.from({ length: 256 }, (_, i) => {
  const at = Math.min(Math.floor(i / 16), 15), t = i / 255 * 16 - at;
  const mix = (c) => Math.round(VIRIDIS[3 * at + c] * (1 - t) + VIRIDIS[3 * at + 3 + c] * t);
  return (255 << 24 | mix(2) << 16 | mix(1) << 8 | mix(0)) >>> 0;
});
const COLOUR_BAR = new OffscreenCanvas(1, 256).getContext("2d");
COLOUR_BAR.putImageData(new ImageData(new Uint8ClampedArray(COLOUR_OF.slice().reverse().buffer), 1, 256), 0, 0);

const STYLE = `
.explorer { color: var(--jp-ui-font-color1, inherit); font: 13px/1.4 var(--jp-ui-font-family, system-ui, sans-serif);
  font-variant-numeric: tabular-nums; --paper: var(--jp-layout-color0, Canvas); width: 100% }
.explorer-panels, .explorer-controls { display: grid; gap: 4px 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)) }
.explorer figure { margin: 0; min-width: 0; display: grid; grid-row: span 3; grid-template-rows: subgrid; row-gap: 0 }
.explorer figure.wide { grid-column: 1 / -1 }
.explorer-plot { grid-row: 3; align-self: start }
.explorer-counters { grid-row: 2 / 4; align-content: start }
.explorer figcaption { font-weight: 600 }
.explorer ul, .explorer .options { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 0; padding: 0 }
.explorer li, .explorer .options label { display: flex; align-items: center; gap: 5px; margin: 0 }
.explorer li :is(canvas, svg) { width: 30px; height: 12px }
.explorer-plot { position: relative; overflow: hidden }
.explorer-plot > :is(canvas, svg) { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain }
.explorer-plot > svg { pointer-events: none; font-size: 12px; fill: currentColor }
.explorer :is(.grid, .edge, .halo, .mark, .ink, .bold) { stroke: currentColor; fill: none }
.explorer-plot .grid { stroke-opacity: .14 }
.explorer-plot .edge { stroke-opacity: .5 }
.explorer .halo { stroke: var(--paper); stroke-width: 4; stroke-opacity: .7 }
.explorer-plot .mark { stroke-width: 1.5; stroke-dasharray: 5 3 }
.explorer-plot .ink { stroke-width: 1.5 }
.explorer .bold { stroke-width: 2.5; stroke-linejoin: round }
.explorer-plot .note { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round }
.explorer-plot output { position: absolute; background: var(--paper); border: 1px solid; border-radius: 3px;
  padding: 1px 6px; white-space: pre; pointer-events: none }
.explorer-plot output:empty { display: none }
.explorer-counters { display: flex; flex-wrap: wrap; gap: 8px; margin: 6px 0 }
.explorer-counters label { flex: 1 1 120px; border-left: 3px solid #0072B2; padding-left: 8px }
.explorer-counters output { display: block; font-size: 20px; font-weight: 600; line-height: 1.25 }
.explorer-foot { display: flex; gap: 16px; align-items: flex-start; margin-top: 6px }
.explorer-foot p { flex: 1; margin: 0; min-height: 2.8em }
.explorer button { font: inherit; color: inherit; background: none; border: 1px solid; border-radius: 3px;
  padding: 2px 12px; cursor: pointer }
.explorer-controls { margin: 6px 0 12px }
.explorer-controls > * { display: grid; grid-template-columns: minmax(0, var(--labels)) minmax(120px, 1fr) 5em;
  gap: 0 10px; align-items: center; min-width: 0 }
.explorer-controls input { margin: 0; min-width: 0 }
.explorer-controls .options { grid-column: 2 / 4; min-width: 0 }
@media (max-width: 480px) { /* a label stands above its track */
  .explorer-controls > * { grid-template-columns: minmax(120px, 1fr) minmax(0, auto) }
  .explorer-controls > * > :is(span, .options) { grid-column: 1 / -1 }
}
.explorer-refused { border-left: 4px solid #D55E00; padding-left: 8px; margin: 6px 0 }
.explorer :focus-visible, .explorer-live :focus-visible { outline: 2px solid var(--jp-brand-color1, #0072B2);
  outline-offset: 1px }
.explorer-live .explorer { margin-top: 8px }
.explorer-live .widget-label { text-align: left }
.explorer-live .widget-toggle-buttons { display: flex; flex-wrap: nowrap; height: auto }
@media print { .explorer, .explorer figure { break-inside: avoid } .explorer button { display: none } }`;

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

function make(tag, parent, attributes = {}, text = "") {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  parent.append(node);
  return node;
}

// Four significant digits, for values read off a picture.
function short(value) {
  if (!Number.isFinite(value)) return "no value";
  const size = Math.abs(value);
  return (size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2).replace("e+", "e")
    : value.toLocaleString("en", { maximumSignificantDigits: 4 })).replace("-", "\u2212");
}

// An axis from value to pixel, with its inverse and its ticks [value, text].
function scale(axis, [low, high], from, to) {
  const f = axis.log ? Math.log10 : (v) => v, f0 = f(low), slope = (to - from) / (f(high) - f0);
  const at = (value) => from + (f(value) - f0) * slope;
  at.invert = (pixel) => { const v = f0 + (pixel - from) / slope; return axis.log ? 10 ** v : v; };
  at.shows = (value) => value >= low && value <= high;
  at.text = (value) => (axis.names ? axis.names[Math.round(value)] : short(value));
  at.ticks = (room) => {
    const count = Math.max(2, Math.floor(Math.abs(to - from) / room));
    if (axis.names) {
      const every = Math.ceil(axis.names.length / count);
      return axis.names.map((name, i) => [i, name]).filter(([i]) => i % every === 0);
    }
    if (axis.log) {
      const steps = f(high) - f0 < 2.5 ? [1, 2, 5] : [1], ticks = [];
      for (let d = Math.floor(f0); d <= f(high); d++) for (const s of steps) ticks.push(s * 10 ** d);
      return ticks.filter(at.shows).map((v) => [v, short(v)]);
    }
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step || 0); // no -0
    const plain = digits <= 4 && Math.abs(high) < 1e6 && Math.abs(low) < 1e6;
    const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return ticks.map((v) => [v, plain ? v.toLocaleString("en", format).replace("-", "\u2212") : short(v)]);
  };
  return at;
}

// The series of a panel in this state: name, y and, where it has one, an interval from low to high.
function series(p) {
  const values = p.read(p.panel.values), n = p.panel.values.shape[1];
  let from = 0;
  const row = () => values.subarray(from, from += n);
  return p.panel.series.map(([name, rows], i) => {
    const [y, low, high] = Array.from({ length: rows }, row);
    return { name, i: i % COLOURS.length, y, low, high };
  });
}
const said = (k) => ({ name, y, low, high }) =>
  `${name} ${short(y[k])}` + (low ? ` (${short(low[k])} to ${short(high[k])})` : "");

function stroke(ctx, i, path) {
  ctx.strokeStyle = COLOURS[i]; ctx.lineWidth = 2; ctx.setLineDash(DASHES[i]); ctx.lineJoin = "round";
  ctx.stroke(path);
}
function stamp(ctx, i, x, y) {
  ctx.save(); ctx.translate(x, y); ctx.fillStyle = COLOURS[i]; ctx.fill(SHAPES[i]); ctx.restore();
}
// A bar of series i: its colour, and from the second series on hatched, each at an angle of its own.
function bar(ctx, i, x, y, width, height) {
  ctx.save();
  ctx.beginPath(); ctx.rect(x, y, width, height); ctx.clip();
  ctx.fillStyle = COLOURS[i]; ctx.fill();
  if (i) {
    const lean = [0, 1, -1, 0, 2, -2, 0.5][i] * height;
    ctx.strokeStyle = "rgba(255,255,255,.45)"; ctx.lineWidth = 1.5; ctx.beginPath();
    for (let at = x - Math.abs(lean); at < x + width + Math.abs(lean); at += 7) {
      ctx.moveTo(at, y + height); ctx.lineTo(at + lean, y);
    }
    ctx.stroke();
  }
  ctx.restore();
}

// A bold line in the page's colour, legible on any colour of a picture.
const bold = (path, i = 0) => `<path class="halo" style="stroke-width: 5" d="${path}"/>` +
  `<path class="bold" d="${path}" stroke-dasharray="${DASHES[i]}"/>`;

// How a series of shapes is painted: its rows [x, y] in pixels, the pen lifted over NaN.
function trace(xy) {
  const steps = [];
  for (let k = 0, pen = "M"; k < xy.length; k += 2) {
    const there = Number.isFinite(xy[k]) && Number.isFinite(xy[k + 1]);
    if (there) steps.push(pen, xy[k], ",", xy[k + 1]);
    pen = there ? "L" : "M";
  }
  return steps.join("");
}
const STYLES = {
  fill(ctx, i, xy) { // one path, so that areas side by side show no seam
    ctx.fillStyle = COLOURS[i]; ctx.globalAlpha = 0.25; ctx.fill(new Path2D(trace(xy))); ctx.globalAlpha = 1;
  },
  edges(ctx, i, xy) { ctx.strokeStyle = "#808080cc"; ctx.lineWidth = 0.75; ctx.stroke(new Path2D(trace(xy))); },
  line: (ctx, i, xy) => bold(trace(xy), i),
  points(ctx, i, xy) { for (let k = 0; k < xy.length; k += 2) if (xy[k] === xy[k]) stamp(ctx, i, xy[k], xy[k + 1]); },
};
const SAMPLES = { fill: [0, 0, 30, 0, 30, 12, 0, 12], edges: [0, 6, 30, 6], line: [0, 6, 30, 6], points: [15, 6] };

// Lines of parallel coordinates: all, those within the bounds, the next best, and the best.
const pen = (colour, width) => (ctx, path) => {
  ctx.strokeStyle = colour; ctx.lineWidth = width; ctx.lineJoin = "round"; ctx.stroke(new Path2D(path));
};
const PENS = [pen("#80808048", 0.75), pen("#0072B2", 0.75), pen("#D55E00", 2), (_, path) => bold(path)];

const KINDS = {
  heatmap: {
    aspect: ({ values: { shape: [rows, columns] } }) => Number(rows === columns),
    draw(ctx, p) {
      const [rows, columns] = p.panel.values.shape, values = p.read(p.panel.values), [low, high] = p.z;
      const image = new ImageData(columns, rows), pixels = new Uint32Array(image.data.buffer);
      const slope = 255 / (high - low);
      for (let r = 0, k = 0; r < rows; r++) {
        for (let c = 0, to = (rows - 1 - r) * columns; c < columns; c++, k++, to++) {
          const level = (values[k] - low) * slope; // NaN stays transparent
          if (level === level) pixels[to] = COLOUR_OF[level < 0 ? 0 : level > 255 ? 255 : Math.round(level)];
        }
      }
      const { left, right, top, bottom } = p.box;
      p.image ??= new OffscreenCanvas(columns, rows).getContext("2d");
      p.image.putImageData(image, 0, 0);
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(p.image.canvas, left, top, right - left, bottom - top);
      ctx.drawImage(COLOUR_BAR.canvas, right + 14, top, 12, bottom - top);
      if (!p.panel.cells) return "";
      const cells = p.read(p.panel.cells), width = (right - left) / columns, height = (bottom - top) / rows;
      const w = Math.max(width + 2, 9), h = Math.max(height + 2, 9); // a small cell is still seen
      let out = "";
      for (let k = 0; k < cells.length && cells[k] === cells[k]; k += 2) {
        const x = left + (cells[k + 1] + 0.5) * width - w / 2, y = bottom - (cells[k] + 0.5) * height - h / 2;
        out += `M${x},${y}h${w}v${h}h${-w}z`;
      }
      return bold(out);
    },
    hover(p, px, py) {
      const [rows, columns] = p.panel.values.shape, { left, right, top, bottom } = p.box;
      const width = (right - left) / columns, height = (bottom - top) / rows;
      const c = Math.floor((px - left) / width), r = Math.floor((bottom - py) / height);
      const x = p.x.invert(left + (c + 0.5) * width), y = p.y.invert(bottom - (r + 0.5) * height);
      return `(${p.x.text(x)}, ${p.y.text(y)}): ${short(p.read(p.panel.values)[r * columns + c])}`;
    },
  },

  lines: {
    draw(ctx, p) {
      const xs = p.read(p.panel.at);
      for (const { i, low, high } of series(p)) { // all intervals lie beneath all curves
        if (!low) continue;
        ctx.fillStyle = COLOURS[i]; ctx.globalAlpha = 0.2; ctx.beginPath();
        for (let k = 0; k < xs.length; k++) ctx.lineTo(p.x(xs[k]), p.y(high[k]));
        for (let k = xs.length; k--;) ctx.lineTo(p.x(xs[k]), p.y(low[k]));
        ctx.fill(); ctx.globalAlpha = 1;
      }
      for (const { i, y } of series(p)) {
        const path = new Path2D(), every = Math.ceil(xs.length / 12), there = (k) => Number.isFinite(y[k]);
        for (let k = 0; k < xs.length; k++) { // the pen is lifted over NaN
          if (there(k)) path[there(k - 1) ? "lineTo" : "moveTo"](p.x(xs[k]), p.y(y[k]));
        }
        stroke(ctx, i, path);
        for (let k = i % every; k < xs.length; k += every) if (there(k)) stamp(ctx, i, p.x(xs[k]), p.y(y[k]));
      }
    },
    hover(p, px) {
      const xs = p.read(p.panel.at);
      let near = 0;
      xs.forEach((x, k) => { if (Math.abs(p.x(x) - px) < Math.abs(p.x(xs[near]) - px)) near = k; });
      return [p.x.text(xs[near]), ...series(p).map(said(near))].join("\n");
    },
    swatch(ctx, i) { stroke(ctx, i, new Path2D("M0,6H30")); stamp(ctx, i, 15, 6); },
  },

  bars: {
    down: true,
    height: (panel) => 52 + panel.y.names.length * (panel.stacked ? 34 : 10 + 16 * panel.series.length),
    draw(ctx, p) {
      const all = series(p), stacked = p.panel.stacked, thick = stacked ? 22 : 16;
      let ink = "";
      p.panel.y.names.forEach((_, k) => {
        let from = 0;
        all.forEach(({ i, y, low, high }, j) => {
          if (!Number.isFinite(y[k])) return;
          const middle = p.y(k) + (stacked ? 0 : (j + 0.5 - all.length / 2) * thick);
          const a = p.x(from), b = p.x(from + y[k]);
          bar(ctx, i, Math.min(a, b), middle - thick / 2 + 1, Math.abs(b - a), thick - 2);
          if (stacked) { from += y[k]; return; }
          const end = low ? p.x(high[k]) : b;
          if (low) ink += `<path class="ink" d="M${p.x(low[k])},${middle - 4}v8m0,-4H${end}m0,-4v8"/>`;
          ink += write(end + 5, middle + 4, short(y[k]), "start", "note");
        });
        if (stacked) ink += write(p.x(from) + 5, p.y(k) + 4, short(from), "start", "note");
      });
      return ink;
    },
    hover(p, px, py) {
      const k = Math.round(p.y.invert(py));
      return [p.y.text(k), ...series(p).map(said(k))].join("\n");
    },
    swatch(ctx, i) { bar(ctx, i, 0, 0, 30, 12); },
  },

  picture: {
    down: true,
    aspect: ({ values: { shape: [rows, columns] } }) => columns / rows,
    draw(ctx, p) {
      const [rows, columns, channels = 1] = p.panel.values.shape, values = p.read(p.panel.values);
      const image = new ImageData(columns, rows), colour = (k, c) => 255 * values[k * channels + c % channels];
      for (let k = 0; k < rows * columns; k++) { // an ImageData rounds, and cuts off below 0 and above 255
        image.data.set([colour(k, 0), colour(k, 1), colour(k, 2), 255], 4 * k);
      }
      const { left, right, top, bottom } = p.box;
      p.image ??= new OffscreenCanvas(columns, rows).getContext("2d");
      p.image.putImageData(image, 0, 0);
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(p.image.canvas, left, top, right - left, bottom - top);
    },
    hover(p, px, py) {
      const [, columns, channels = 1] = p.panel.values.shape, [x, y] = [p.x.invert(px), p.y.invert(py)].map(Math.round);
      const at = (y * columns + x) * channels;
      return `(${x}, ${y}): ${[...p.read(p.panel.values).subarray(at, at + channels)].map(short).join(", ")}`;
    },
  },

  shapes: {
    aspect: (panel, { x, y }) => (x[1] - x[0]) / (y[1] - y[0]),
    draw(ctx, p) {
      const { left, right, top, bottom } = p.box, width = right - left, height = bottom - top;
      ctx.beginPath(); ctx.rect(left, top, width, height); ctx.clip();
      const ink = p.panel.series.map(([, style, i, block]) => STYLES[style](ctx, i % COLOURS.length,
        p.read(block).map((value, k) => (k % 2 ? p.y : p.x)(value))) ?? "");
      const place = `x="${left}" y="${top}" width="${width}" height="${height}"`;
      return `<svg ${place} viewBox="${left} ${top} ${width} ${height}">${ink.join("")}</svg>`;
    },
    hover(p, px, py) { // to about a pixel
      const digits = Math.max(0, Math.ceil(-Math.log10(p.x.invert(1) - p.x.invert(0))));
      const [x, y] = [p.x.invert(px), p.y.invert(py)].map((v) => short(Number(v.toFixed(digits)) || 0)); // no -0
      return `(${x}, ${y})`;
    },
    swatch: (ctx, _, [, style, i]) => STYLES[style](ctx, i % COLOURS.length, SAMPLES[style]),
  },

  parallel: {
    wide: true,
    arranged(p) {
      const { top, bottom } = p.box;
      p.scales = p.panel.axes.map((axis) => scale(axis, p.read(axis.limits), bottom, top));
      p.labels = p.scales.flatMap((y, k) => y.ticks(p.panel.axes[k].names ? 14 : 36)
        .map(([v, text]) => write(p.x(k) + 5, y(v) + 4, text, "start", "note"))).join("");
      p.under = null;
    },
    draw(ctx, p) {
      const [rows, within, best] = ["rows", "within", "best"].map((part) => p.read(p.panel[part])), n = p.scales.length;
      const all = Array.from({ length: rows.length / n }, (_, row) => row);
      const kept = (row) => p.scales.every((_, k) =>
        rows[row * n + k] >= within[2 * k] && rows[row * n + k] <= within[2 * k + 1]);
      const corners = (row) => p.scales.map((y, k) => `${p.x(k)},${y(rows[row * n + k])}`);
      const path = (some) => some.map((row) => `M${corners(row).join("L")}`).join("");
      const [first, ...next] = [...best].filter((row) => row === row), { width, height } = ctx.canvas;
      if (p.under?.rows !== rows.byteOffset || p.under.canvas.width !== width) { // the grey ones: once for each block
        const under = new OffscreenCanvas(width, height).getContext("2d");
        under.setTransform(ctx.getTransform());
        PENS[0](under, path(all));
        p.under = { rows: rows.byteOffset, canvas: under.canvas };
      }
      ctx.save(); ctx.resetTransform(); ctx.drawImage(p.under.canvas, 0, 0); ctx.restore();
      PENS[1](ctx, path(all.filter(kept)));
      PENS[2](ctx, path(next));
      const ends = p.scales.flatMap((y, k) => [within[2 * k], within[2 * k + 1]].filter(y.shows)
        .map((v) => `M${p.x(k) - 8},${y(v)}h16`));
      const line = first === undefined ? "" : PENS[3](ctx, path([first]));
      return `${line}<path class="bold" d="${ends.join("")}"/>${p.labels}`;
    },
    hover(p, px, py) {
      const k = Math.min(Math.max(Math.round(p.x.invert(px)), 0), p.scales.length - 1), y = p.scales[k];
      return `${p.panel.x.names[k]}: ${y.text(y.invert(py))}`;
    },
    swatch: (ctx, i) => PENS[i](ctx, i < 2 ? "M0,3H30M0,6H30M0,9H30" : "M0,6H30"),
  },
};

const write = (x, y, text, anchor, kind = "") =>
  `<text x="${x}" y="${y}" text-anchor="${anchor}" class="${kind}">${escape(text)}</text>`;
const upright = (x, y, text) => `<g transform="translate(${x},${y}) rotate(-90)">${write(0, 0, text, "middle")}</g>`;
const line = (kind, x1, y1, x2, y2) => `<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;

// Counters: numbers in words, no picture.
function counters(panel, figure, { say }) {
  const list = make("div", figure, { class: "explorer-counters" });
  const draws = panel.counters.map(([label, template]) => {
    const shown = make("output", make("label", list, {}, label), { "aria-live": "off" });
    return () => { shown.textContent = say(template); };
  });
  return () => draws.forEach((draw) => draw());
}

// Any other panel: a canvas for the data, and over it SVG for what follows the page's colours.
function plot(panel, figure, reader, watch) {
  const kind = KINDS[panel.kind], p = { panel, ...reader };
  if (kind.wide) figure.classList.add("wide");
  const legend = make("ul", figure);
  panel.series?.forEach((one, i) => {
    const item = make("li", legend), swatch = make("canvas", item, { width: 60, height: 24, "aria-hidden": "true" });
    item.append(one[0]);
    const ctx = swatch.getContext("2d");
    ctx.scale(2, 2);
    const ink = kind.swatch(ctx, i % COLOURS.length, one);
    if (ink) swatch.outerHTML = `<svg aria-hidden="true">${ink}</svg>`;
  });
  const frame = make("div", figure, { class: "explorer-plot", style: `height: ${kind.height?.(panel) ?? 340}px` });
  const canvas = make("canvas", frame, { role: "img", "aria-label": panel.title }), ctx = canvas.getContext("2d");
  frame.insertAdjacentHTML("beforeend", `<svg aria-hidden="true"><g></g><g></g></svg>`);
  const overlay = frame.lastChild, [axes, marks] = overlay.children, readout = make("output", frame, { "aria-live": "off" });
  let width = 0, height = 0, drawn = "", inside = null;

  function arrange() { // scales and axes: again only when a size, an end of an axis or a label changed
    const ends = { x: p.read(panel.x.limits), y: p.read(panel.y.limits), z: panel.z && p.read(panel.z.limits) };
    const labels = { x: p.say(panel.x.label), y: p.say(panel.y.label), z: panel.z && p.say(panel.z.label) };
    const key = JSON.stringify([width, height, ends, labels]);
    if (key === drawn) return;
    drawn = key;
    // Where this size is not the frame's, as on paper, axes and canvas still shrink as one.
    overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const long = (texts) => Math.ceil(6.6 * Math.max(...texts.map((text) => text.length))), top = 8;
    let bottom = height - 38, right = width - (panel.z ? 88 : 14);
    const upward = () => scale(panel.y, ends.y, ...(kind.down ? [top, bottom] : [bottom, top]));
    const room = panel.y.names ? 14 : 36, texts = upward().ticks(room).map(([, text]) => text);
    const left = long(texts) + (labels.y ? 32 : 10);
    right = Math.max(right, left + 1); // a frame may be narrower than its labels, if only while a page loads
    const aspect = kind.aspect?.(panel, ends);
    if (aspect) {
      const tall = Math.min((right - left) / aspect, bottom - top);
      right = left + tall * aspect;
      bottom = top + tall;
    }
    const x = scale(panel.x, ends.x, left, right);
    Object.assign(p, { x, y: upward(), z: ends.z, box: { left, right, top, bottom } });
    let out = "";
    for (const [v, text] of p.x.ticks(panel.x.names ? long(panel.x.names) + 8 : 48)) {
      if (!kind.aspect) out += line("grid", p.x(v), top, p.x(v), bottom);
      out += write(p.x(v), bottom + 15, text, "middle");
    }
    for (const [v, text] of p.y.ticks(room)) {
      if (!kind.aspect && !panel.y.names) out += line("grid", left, p.y(v), right, p.y(v));
      out += write(left - 6, p.y(v) + 4, text, "end");
    }
    out += write((left + right) / 2, bottom + 32, labels.x, "middle") + upright(13, (top + bottom) / 2, labels.y);
    out += `<rect class="edge" x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/>`;
    if (p.z) {
      const z = scale(panel.z, p.z, bottom, top);
      for (const [v, text] of z.ticks(36)) {
        out += line("edge", right + 26, z(v), right + 30, z(v)) + write(right + 33, z(v) + 4, text, "start");
      }
      out += upright(right + 80, (top + bottom) / 2, labels.z);
    }
    axes.innerHTML = out;
    kind.arranged?.(p);
  }
  function markers() {
    const { left, right, top, bottom } = p.box;
    let out = "";
    const put = (label, ends, x, y, anchor) => {
      if (p.z) out += line("halo", ...ends);
      out += line("mark", ...ends) + write(x, y, p.say(label), anchor, "note");
    };
    panel.vlines.forEach(([label, block], k) => {
      const value = p.read(block)[0], x = p.x(value), early = x < (left + right) / 2;
      const at = [x + (early ? 5 : -5), top + 14 + 15 * k, early ? "start" : "end"];
      if (p.x.shows(value)) put(label, [x, top, x, bottom], ...at);
    });
    panel.hlines.forEach(([label, block]) => {
      const value = p.read(block)[0], y = p.y(value);
      if (p.y.shows(value)) put(label, [left, y, right, y], right - 4, y + (y < top + 16 ? 14 : -5), "end");
    });
    return out;
  }
  function draw() {
    if (!width) return;
    arrange();
    const ratio = devicePixelRatio, [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    ctx.save();
    if (!p.z) { // a marker may stand on the edge
      const { left, right, top, bottom } = p.box;
      ctx.beginPath(); ctx.rect(left - 4, top - 4, right - left + 8, bottom - top + 8); ctx.clip();
    }
    marks.innerHTML = (kind.draw(ctx, p) ?? "") + markers();
    ctx.restore();
    hover();
  }
  function hover() { // what lies under the pointer, beside it
    readout.textContent = inside ? kind.hover(p, ...inside) : "";
    if (!inside) return;
    const [x, y] = inside, side = x < width / 2 ? "left" : "right";
    readout.style.cssText = `${side}: ${(side === "left" ? x : width - x) + 14}px; top: ${Math.max(0, y - 24)}px`;
  }
  canvas.addEventListener("pointermove", ({ offsetX: x, offsetY: y }) => {
    const { left, right, top, bottom } = p.box;
    inside = x > left && x < right && y > top && y < bottom ? [x, y] : null;
    hover();
  });
  canvas.addEventListener("pointerleave", () => { inside = null; hover(); });
  watch(frame, (box) => { ({ width, height } = box); draw(); });
  return draw;
}

function render({ model, el }) {
  if (!document.getElementById("explorer-style")) make("style", document.head, { id: "explorer-style" }, STYLE);
  const spec = model.get("spec"), view = model.get("payload");
  const data = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const read = ({ depends, start, size }) => {
    let state = 0;
    for (const c of depends) state = state * spec.controls[c].texts.length + model.get(`at_${spec.controls[c].name}`);
    return data.subarray(start + state * size, start + (state + 1) * size);
  };
  const say = (template) => template.map((piece) => piece.words?.[read(piece)[0]] ?? piece).join("");
  const resized = new Map();
  const observer = new ResizeObserver((seen) => seen.forEach((one) => resized.get(one.target)(one.contentRect)));
  const watch = (node, then) => { resized.set(node, then); observer.observe(node); };

  el.classList.add("explorer");
  const grid = make("div", el, { class: "explorer-panels" });
  const draws = spec.panels.map((panel) => {
    const figure = make("figure", grid);
    make("figcaption", figure, {}, panel.title);
    return (panel.kind === "counters" ? counters : plot)(panel, figure, { read, say }, watch);
  });
  const foot = make("div", el, { class: "explorer-foot" });
  const text = make("p", foot, { "aria-live": "polite", class: "explorer-text" });
  const reset = make("button", foot, { type: "button" }, "Reset");

  let due = false;
  const redraw = () => { due = false; draws.forEach((draw) => draw()); text.textContent = say(spec.describe); };
  // Drawn in the task of the key press, in time for the very next frame; several changes at once, one drawing.
  const changed = () => { if (!due) { due = true; queueMicrotask(redraw); } };
  for (const control of spec.controls) model.on(`change:at_${control.name}`, changed);
  reset.addEventListener("click", () => {
    for (const control of spec.controls) model.set(`at_${control.name}`, control.index);
    model.save_changes();
  });
  redraw();
  return () => observer.disconnect();
}

export default { render };

// ---- The exported page: native inputs, a stand-in for the kernel's model, the state in the address ----

function standIn(state, saved) {
  const listeners = {};
  return {
    get: (key) => state[key],
    set(key, value) {
      if (state[key] === value) return;
      state[key] = value;
      listeners[`change:${key}`]?.forEach((then) => then());
    },
    on: (event, then) => { (listeners[event] ??= []).push(then); },
    save_changes: saved,
  };
}

let groups = 0; // the same explorer may stand twice on a page

function mount(root) {
  const part = (name) => root.querySelector(`script[data-part=${name}]`).textContent;
  const spec = JSON.parse(part("spec")), bytes = Uint8Array.from(atob(part("payload")), (c) => c.charCodeAt(0));
  const at = ({ name }) => `at_${name}`, address = ({ name }) => `${spec.name}.${name}`;
  let timer = 0; // browsers refuse a page that writes its address at every step of a drag
  const model = standIn({ spec, payload: new DataView(bytes.buffer) }, () => {
    refused.hidden = true;
    clearTimeout(timer);
    timer = setTimeout(() => {
      const state = new URLSearchParams(location.hash.slice(1));
      for (const [key, value] of [...state]) if (!value) state.delete(key); // an anchor, such as #summary
      for (const control of spec.controls) state.set(address(control), control.keys[model.get(at(control))]);
      history.replaceState(null, "", `#${state}`);
    }, 200);
  });
  function open() { // take the state from the address; what is not in it, or not valid there, is the default
    const state = new URLSearchParams(location.hash.slice(1)), known = spec.controls.map(address), wrong = [];
    for (const key of state.keys()) {
      if (key.startsWith(`${spec.name}.`) && !known.includes(key)) {
        wrong.push(`${key} is no control here; valid names: ${known.join(", ")}.`);
      }
    }
    for (const control of spec.controls) {
      const asked = state.get(address(control));
      const found = asked === null ? control.index : control.keys.indexOf(asked);
      if (found < 0) {
        const valid = control.keys.join(", "), shown = control.keys[control.index];
        wrong.push(`${address(control)}=${asked} is not to be had; valid values: ${valid}. Shown instead: ${shown}.`);
      }
      model.set(at(control), found < 0 ? control.index : found);
    }
    refused.textContent = wrong.join(" ");
    refused.hidden = !wrong.length;
  }

  root.querySelector(".explorer-still").remove();
  root.classList.add("explorer");
  const refused = make("p", root, { class: "explorer-refused", role: "alert", hidden: "" });
  const longest = Math.max(...spec.controls.map((control) => control.label.length));
  const controls = make("div", root, { class: "explorer-controls", style: `--labels: ${longest}ch` });
  for (const control of spec.controls) {
    const follow = (then) => model.on(`change:${at(control)}`, () => then(model.get(at(control))));
    const choose = (index) => { model.set(at(control), index); model.save_changes(); };
    const slider = control.kind === "slider", name = { "aria-label": control.label };
    const row = make(slider ? "label" : "div", controls, slider ? {} : { role: "radiogroup", ...name });
    make("span", row, {}, control.label);
    if (slider) {
      const input = make("input", row, { type: "range", min: 0, max: control.texts.length - 1, ...name });
      const output = make("output", row);
      input.addEventListener("input", () => choose(Number(input.value)));
      follow((index) => {
        input.value = index;
        input.setAttribute("aria-valuetext", output.textContent = control.texts[index]);
      });
    } else {
      const options = make("span", row, { class: "options" }), group = `explorer-radio-${++groups}`;
      control.texts.forEach((text, index) => {
        const label = make("label", options), input = make("input", label, { type: "radio", name: group });
        label.append(text);
        input.addEventListener("change", () => choose(index));
        follow((chosen) => { input.checked = chosen === index; });
      });
    }
  }
  open();
  render({ model, el: make("div", root) });
  addEventListener("hashchange", open);
}

for (const root of document.querySelectorAll("[data-explorer]:not([data-mounted])")) {
  root.dataset.mounted = "";
  mount(root);
}

// The keyboard reaches a box that scrolls sideways, and does not stop at one that has no need to.
const boxes = new ResizeObserver((seen) => {
  for (const { target } of seen) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
for (const box of document.querySelectorAll(".scroll")) boxes.observe(box);
