// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"use strict";

const space = document.querySelector("svg").namespaceURI;
const svg = (tag, attributes, children) => make(tag, attributes, children, space);

function canvas(width, height, label) {
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label});
}

const text = (x, y, words, attributes = {}) => svg("text", {x, y, ...attributes}, words);
const line = (x1, y1, x2, y2, kind) => svg("line", {x1, y1, x2, y2, class: kind});

/** KL against bytes, both on log axes, with the front as steps. */
function drawFront(into) {
  const shown = caches.filter(c => c.kl > 0);
  if (shown.length === 0) return into.replaceChildren("Nothing differs from fp32.");
  const width = 1000, height = 560, left = 70, right = 20, top = 20, bottom = 50;
  const out = canvas(width, height, "KL to fp32 against bytes per token");
  const lowest = Math.floor(Math.log10(Math.min(...shown.map(c => c.kl)))), highest = Math.ceil(Math.log10(Math.max(...shown.map(c => c.kl))));
  const bytes = shown.map(c => c.bytes_per_token);
  const least = Math.log2(Math.min(...bytes)) - 0.12, most = Math.log2(Math.max(...bytes)) + 0.25;
  const x = value => left + (Math.log2(value) - least) / (most - least) * (width - left - right);
  const y = value => top + (highest - Math.log10(value)) / Math.max(1, highest - lowest) * (height - top - bottom);

  for (let power = lowest; power <= highest; ++power) {
    out.append(line(left, y(10 ** power), width - right, y(10 ** power), "grid"),
      text(left - 8, y(10 ** power) + 4, decimal(10 ** power), {"text-anchor": "end", class: "soft"}));
  }
  // Ticks at whole ratios to 16 bit, which are the bytes' other name.
  const full = report.model.bytes_per_token_16_bit;
  for (const ratio of [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64]) {
    const at = full / ratio;
    if (Math.log2(at) < least || Math.log2(at) > most) continue;
    out.append(line(x(at), top, x(at), height - bottom, "grid"),
      text(x(at), height - bottom + 17, count(at), {"text-anchor": "middle", class: "soft"}),
      text(x(at), height - bottom + 32, ratio + "×", {"text-anchor": "middle", class: "soft"}));
  }
  out.append(text(left, height - 3, "bytes per token, and how many times fewer than in 16 bit", {class: "soft"}),
    text(left + 8, top + 12, "KL to fp32, nats per token", {class: "soft"}));

  const steps = front().filter(c => c.kl > 0);
  const lines = [];  // what names should not cover
  let path = "";
  steps.forEach((c, i) => {
    const at = [x(c.bytes_per_token), y(c.kl)];
    path += i === 0 ? `M${at}` : `V${at[1]}H${at[0]}`;
    if (i === 0) return;
    const from = [x(steps[i - 1].bytes_per_token), y(steps[i - 1].kl)];
    lines.push({left: from[0] - 2, right: from[0] + 2, top: at[1], bottom: from[1]},
      {left: at[0], right: from[0], top: at[1] - 2, bottom: at[1] + 2});
  });
  out.append(svg("path", {d: path, class: "front"}));

  const points = shown.map(c => ({name: c.name, x: x(c.bytes_per_token), y: y(c.kl), cache: c}));
  for (const p of points) {
    out.append(svg("circle", {cx: p.x, cy: p.y, r: 5, class: best.has(p.cache) ? "dot on" : "dot"},
      svg("title", {}, `${p.name}: KL ${fixed(p.cache.kl, 5)}, ${count(p.cache.bytes_per_token)} bytes per token`)));
  }
  placeLabels(out, points, lines, {left, top, right: width - right, bottom: height - bottom});
  into.replaceChildren(out);
}

/** Names beside their points, where they cover nothing; a thin line leads to those that had to go further away. */
function placeLabels(out, points, lines, area) {
  const high = 13, near = 9;
  const taken = [...lines, ...points.map(p => ({left: p.x - 6, right: p.x + 6, top: p.y - 6, bottom: p.y + 6}))];
  const overlap = (a, b) => Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));
  for (const p of [...points].sort((a, b) => a.y - b.y)) {
    const wide = p.name.length * 6.7;
    let chosen = null;
    for (const distance of [near, near + 10, near + 22, near + 36]) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]]) {
        const centreX = p.x + dx * (distance + (dx ? wide / 2 : 0)), centreY = p.y + dy * (distance + (dy ? high / 3 : 0));
        const box = {left: centreX - wide / 2, right: centreX + wide / 2, top: centreY - high / 2, bottom: centreY + high / 2};
        const outside = box.left < area.left || box.right > area.right || box.top < area.top || box.bottom > area.bottom;
        const cost = taken.reduce((sum, other) => sum + overlap(box, other), 0) + (outside ? 1e6 : 0) + distance / 10;
        if (chosen === null || cost < chosen.cost) chosen = {cost, box, centreX, centreY, distance};
      }
    }
    taken.push(chosen.box);
    if (chosen.distance > near) {
      const toward = Math.max(chosen.box.left, Math.min(p.x, chosen.box.right));
      out.append(line(p.x, p.y, toward, chosen.centreY + (chosen.centreY < p.y ? high / 2 - 2 : -high / 2 + 2), "leader"));
    }
    out.append(text(chosen.centreX, chosen.centreY + 4, p.name, {"text-anchor": "middle"}));
  }
}

const decimal = value => String(Number(value.toPrecision(1)));
const colour = i => `var(--c${i % 8})`;
const dashes = i => ["", "6 3", "2 3"][Math.floor(i / 8) % 3];

/** What the plot by position can show. `bend` makes an axis of numbers from tiny to large. */
const measures = [
  {name: "loss above fp32", values: c => c.by_position.loss_change, bend: v => Math.asinh(v / 0.01), least: -0.01, most: 0.02,
    ticks: [-10, -3, -1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
    words: "How much more the next token costs than with the fp32 cache. The axis is linear around zero and logarithmic further out."},
  {name: "KL", values: c => c.by_position.kl.map(v => v > 0 ? v : null), bend: Math.log10, least: 1, most: 1e-5,
    ticks: [1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10], words: "KL to the fp32 cache."},
];

/** A measure by position, for the caches that are switched on. */
function drawPositions(into, legend, choice) {
  const shown = caches.filter(c => c.kl > 0);
  const few = shown.length <= 6 ? shown : front().filter(c => c.kl > 1e-4).slice(-6);
  const order = [...few, ...shown.filter(c => !few.includes(c))];  // the first ones get the plainest colours
  const on = new Set(few);
  let measure = measures[0];

  const pressable = (label, pressed, action) => {
    const button = make("button", {type: "button", "aria-pressed": pressed}, label);
    button.onclick = () => {
      action();
      draw();
    };
    return button;
  };

  const draw = () => {
    const width = 1000, height = 380, left = 70, right = 20, top = 15, bottom = 45;
    const out = canvas(width, height, `${measure.name} by position`);
    const all = [...on].flatMap(measure.values).filter(v => v !== null);
    const most = measure.bend(Math.max(measure.most, ...all)), least = measure.bend(Math.min(measure.least, ...all));
    const edges = report.position_bins, last = edges[edges.length - 1];
    const x = at => left + at / last * (width - left - right);
    const y = v => top + (most - measure.bend(v)) / (most - least) * (height - top - bottom);
    for (const tick of measure.ticks) {
      if (measure.bend(tick) > most || measure.bend(tick) < least) continue;
      const sign = measure === measures[0] ? (tick < 0 ? "−" : tick > 0 ? "+" : "") : "";
      out.append(line(left, y(tick), width - right, y(tick), tick === 0 ? "axis" : "grid"),
        text(left - 8, y(tick) + 4, sign + decimal(Math.abs(tick)), {"text-anchor": "end", class: "soft"}));
    }
    for (let i = 0; i <= 8; ++i) {
      const at = report.text.window * i / 8;
      out.append(text(x(Math.min(at, last)), height - bottom + 17, count(at), {"text-anchor": "middle", class: "soft"}));
    }
    out.append(text((left + width - right) / 2, height - 8, "position in the window", {"text-anchor": "middle", class: "soft"}));
    for (const [i, c] of order.entries()) {
      if (!on.has(c)) continue;
      const points = measure.values(c)
        .map((v, bin) => v === null ? null : `${x((edges[bin] + edges[bin + 1]) / 2).toFixed(1)},${y(v).toFixed(1)}`)
        .filter(Boolean);
      if (points.length === 0) continue;
      out.append(svg("path", {d: "M" + points.join("L"), class: "curve", stroke: colour(i), "stroke-dasharray": dashes(i)},
        svg("title", {}, c.name)));
    }
    into.replaceChildren(out);
    choice.replaceChildren(...measures.map(m => pressable(m.name, m === measure, () => { measure = m; })));
    document.getElementById("position-measure").textContent =
      `${measure.words} Nats, mean over parts of a window${report.text.windows > 1 ? " and over the windows" : ""}.`;
    legend.replaceChildren(...order.map((c, i) => {
      const dot = make("i", on.has(c) ? {style: `background: ${colour(i)}`} : {});
      return pressable([dot, c.name], on.has(c), () => on.delete(c) || on.add(c));
    }));
  };
  draw();
}

/** Bars of microseconds, with the bytes per second beside them. */
function drawSpeed(into) {
  const shown = caches.filter(c => c.speed.decode_attend_microseconds > 0);
  if (shown.length === 0) return into.replaceChildren("The window was too short to measure it.");
  const width = 1000, row = 24, left = 190, right = 190;
  const out = canvas(width, shown.length * row + 8, "attend time per token");
  const longest = Math.max(...shown.map(c => c.speed.decode_attend_microseconds));
  shown.forEach((c, i) => {
    const s = c.speed, length = s.decode_attend_microseconds / longest * (width - left - right), y = i * row + 4;
    out.append(text(left - 10, y + 14, c.name, {"text-anchor": "end"}),
      svg("rect", {x: left, y: y + 2, width: length, height: row - 8, rx: 2, class: "bar"}),
      text(left + length + 8, y + 14,
        `${count(s.decode_attend_microseconds)} µs, ${fixed(s.decode_attend_gb_per_second, 2)} GB/s`, {class: "soft"}));
  });
  into.replaceChildren(out);
}
