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
      text(left - 8, y(10 ** power) + 4, String(Number((10 ** power).toPrecision(1))), {"text-anchor": "end", class: "soft"}));
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
  let path = "";
  steps.forEach((c, i) => {
    path += i === 0 ? `M${x(c.bytes_per_token)},${y(c.kl)}` : `H${x(c.bytes_per_token)}V${y(c.kl)}`;
  });
  out.append(svg("path", {d: path, class: "front"}));

  const points = shown.map(c => ({name: c.name, x: x(c.bytes_per_token), y: y(c.kl), cache: c}));
  for (const p of points) {
    out.append(svg("circle", {cx: p.x, cy: p.y, r: 5, class: best.has(p.cache) ? "dot on" : "dot"},
      svg("title", {}, `${p.name}: KL ${fixed(p.cache.kl, 5)}, ${count(p.cache.bytes_per_token)} bytes per token`)));
  }
  placeLabels(out, points, {left, top, right: width - right, bottom: height - bottom});
  into.replaceChildren(out);
}

/** Names beside their points, where they cover nothing; a thin line leads to those that had to go further away. */
function placeLabels(out, points, area) {
  const high = 13, near = 9;
  const taken = points.map(p => ({left: p.x - 6, right: p.x + 6, top: p.y - 6, bottom: p.y + 6}));
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

const colour = i => `var(--c${i % 8})`;
const dashes = i => ["", "6 3", "2 3"][Math.floor(i / 8) % 3];

/** The loss above fp32's by position, for the caches that are switched on. */
function drawPositions(into, legend) {
  const shown = caches.filter(c => c.kl > 0);
  const few = shown.length <= 6 ? shown : front().filter(c => c.kl > 1e-4).slice(-6);
  const on = new Set(few);
  document.getElementById("position-measure").textContent =
    "How much more the next token costs than with the fp32 cache, in nats, mean over parts of a window" +
    (report.text.windows > 1 ? " and over the windows." : ".") +
    " The axis is linear around zero and logarithmic further out.";

  const draw = () => {
    const width = 1000, height = 380, left = 70, right = 20, top = 15, bottom = 45;
    const out = canvas(width, height, "loss above fp32 by position");
    const knee = 0.01, bend = v => Math.asinh(v / knee);
    const all = [...on].flatMap(c => c.by_position.loss_change).filter(v => v !== null);
    const most = bend(Math.max(0.02, ...all)) * 1.05, least = bend(Math.min(-0.01, ...all)) * 1.05;
    const edges = report.position_bins, last = edges[edges.length - 1];
    const x = at => left + at / last * (width - left - right);
    const y = v => top + (most - bend(v)) / (most - least) * (height - top - bottom);
    for (const tick of [-10, -3, -1, -0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]) {
      if (bend(tick) > most || bend(tick) < least) continue;
      out.append(line(left, y(tick), width - right, y(tick), tick === 0 ? "axis" : "grid"),
        text(left - 8, y(tick) + 4, (tick < 0 ? "−" : tick > 0 ? "+" : "") + Math.abs(tick), {"text-anchor": "end", class: "soft"}));
    }
    for (let i = 0; i <= 8; ++i) {
      out.append(text(x(last * i / 8), height - bottom + 17, count(last * i / 8), {"text-anchor": "middle", class: "soft"}));
    }
    out.append(text((left + width - right) / 2, height - 8, "position in the window", {"text-anchor": "middle", class: "soft"}));
    shown.forEach((c, i) => {
      if (!on.has(c)) return;
      const points = c.by_position.loss_change
        .map((v, bin) => v === null ? null : `${x((edges[bin] + edges[bin + 1]) / 2).toFixed(1)},${y(v).toFixed(1)}`)
        .filter(Boolean);
      out.append(svg("path", {d: "M" + points.join("L"), class: "curve", stroke: colour(i), "stroke-dasharray": dashes(i)},
        svg("title", {}, c.name)));
    });
    into.replaceChildren(out);
    legend.replaceChildren(...shown.map((c, i) => {
      const dot = make("i", on.has(c) ? {style: `background: ${colour(i)}`} : {});
      const button = make("button", {type: "button", "aria-pressed": on.has(c)}, [dot, c.name]);
      button.onclick = () => {
        if (!on.delete(c)) on.add(c);
        draw();
      };
      return button;
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
