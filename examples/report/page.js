// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

const report = JSON.parse(document.getElementById("data").textContent);
const caches = report.caches;

// A missing number is null: nothing was measured, or it was no number.
const fixed = (value, digits) => value === null ? "–" : value.toFixed(digits);
const count = value => value === null ? "–" : Math.round(value).toLocaleString("en");

/** An element with attributes and children; svg elements where `space` says so. */
function make(tag, attributes, children = [], space = null) {
  const out = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) out.setAttribute(key, value);
  out.append(...[children].flat());
  return out;
}

/** The caches that no other one beats in both bytes and KL, from the largest down. */
function front() {
  const beats = (a, b) => a.kl <= b.kl && a.bytes_per_token <= b.bytes_per_token &&
    (a.kl < b.kl || a.bytes_per_token < b.bytes_per_token);
  return caches.filter(c => c.kl !== null && !caches.some(other => other.kl !== null && beats(other, c)))
    .sort((a, b) => b.bytes_per_token - a.bytes_per_token);
}
const best = new Set(front());

const columns = [
  {title: "cache", unit: "", value: c => c.name, show: c => c.name},
  {title: "bits", unit: "per value", value: c => c.bits_per_value, show: c => fixed(c.bits_per_value, 2)},
  {title: "bytes", unit: "per token", value: c => c.bytes_per_token, show: c => count(c.bytes_per_token)},
  {title: "ratio", unit: "to 16 bit", value: c => c.ratio, show: c => fixed(c.ratio, 2) + "×"},
  {title: "perplexity", unit: "", value: c => c.perplexity, show: c => fixed(c.perplexity, 3)},
  {title: "change", unit: "to fp32", value: c => c.perplexity_change, show: c => signed(c.perplexity_change) + " %"},
  {title: "KL", unit: "nats", value: c => c.kl, show: c => fixed(c.kl, 5)},
  {title: "top-1", unit: "as fp32", value: c => c.top1, show: c => fixed(100 * c.top1, 1) + " %"},
  {title: "passkeys", unit: "found", value: c => c.passkey, show: c => found(c)},
  {title: "append", unit: "tokens/s", value: c => c.speed.append_tokens_per_second, show: c => count(c.speed.append_tokens_per_second)},
  {title: "attend", unit: "tokens/s", value: c => c.speed.attend_tokens_per_second, show: c => count(c.speed.attend_tokens_per_second)},
  {title: "decode", unit: "µs/token", value: c => c.speed.decode_attend_microseconds, show: c => count(c.speed.decode_attend_microseconds)},
];

function signed(share) {
  return share === null ? "–" : (share < 0 ? "−" : "+") + Math.abs(100 * share).toFixed(2);
}

function found(cache) {
  if (cache.passkey === null) return "–";
  return cache.passkey_found.filter(Boolean).length + " of " + cache.passkey_found.length;
}

function drawTable(sortedBy, ascending) {
  const rows = [...caches];
  if (sortedBy) {
    rows.sort((a, b) => {
      const x = sortedBy.value(a), y = sortedBy.value(b);
      const order = typeof x === "string" ? x.localeCompare(y) : (x ?? Infinity) - (y ?? Infinity);
      return ascending ? order : -order;
    });
  }
  const head = make("tr", {}, columns.map(column => {
    const button = make("button", {type: "button"}, column.title);
    button.onclick = () => drawTable(column, sortedBy === column ? !ascending : true);
    const sort = sortedBy === column ? {"aria-sort": ascending ? "ascending" : "descending"} : {};
    return make("th", {scope: "col", ...sort}, [button, make("small", {}, column.unit || "\u00a0")]);
  }));
  const body = rows.map(c => make("tr", best.has(c) ? {class: "front", title: c.summary} : {title: c.summary},
    columns.map(column => make("td", {}, column.show(c)))));
  document.getElementById("table").replaceChildren(make("thead", {}, head), make("tbody", {}, body));
}

function drawSiblings() {
  const siblings = report.siblings ?? [];
  if (siblings.length === 0) return;
  const shown = [
    ["model", "", s => s.name],
    ["bytes", "per token and layer", s => fixed(s.bytes_per_token_per_layer, 1)],
    ["share", "of 16-bit heads", s => fixed(100 * s.share_of_mha, 2) + " %"],
    ["loss", "nats per token", s => fixed(s.loss, 4)],
    ["copied", "random tokens", s => fixed(100 * s.copied, 0) + " %"],
    ["passkeys", "found", s => `${s.passkey_found.filter(Boolean).length} of ${s.passkey_found.length}`],
    ["attend", "µs/token", s => count(s.decode_attend_microseconds)],
    ["step", "µs/token", s => count(s.step_microseconds)],
  ];
  const head = make("tr", {}, shown.map(([title, unit]) =>
    make("th", {scope: "col"}, [title, make("small", {}, unit || "\u00a0")])));
  const body = siblings.map(s => make("tr", {}, shown.map(([, , show]) => make("td", {}, show(s)))));
  document.getElementById("sibling-table").append(make("thead", {}, head), make("tbody", {}, body));
  document.getElementById("samples").append(...siblings.flatMap(s =>
    [make("dt", {}, s.name), make("dd", {}, [make("em", {}, report.sample_prompt), s.sample])]));
  document.getElementById("siblings").hidden = false;
}

function describeSetting() {
  const {model, text, machine} = report;
  const tokens = text.windows * text.window;
  document.getElementById("setting").textContent =
    `${model.name} reads ${count(tokens)} tokens of ${text.name}, ` +
    (text.windows > 1 ? `in ${text.windows} windows of ${count(text.window)}, ` : "in one window, ") +
    `once through each of ${caches.length} caches. ${machine.gpu ?? `${machine.cpu}, ${machine.threads} threads`}, ${report.date.slice(0, 10).replaceAll("-", "\u2011")}.`;
  const passkeys = report.passkeys;
  if (passkeys && passkeys.reference_finds < 1) {
    document.getElementById("passkey-note").textContent =
      "The passkeys say little here: even with the fp32 cache, the model does not find all of them.";
  }
}

function describeMethod() {
  const {model, text, steps, passkeys, calibration} = report;
  const entries = [
    ["Windows", `Tokens ${text.window_positions.map(p => `${count(p)} to ${count(p + text.window - 1)}`).join(", ")} of the ` +
      `text's ${count(text.tokens)}, each read from an empty cache. Every token, the prompt's first ones too, is attended ` +
      `through the compressed cache, its own row included: ${steps.rows} tokens a step, and the last ` +
      `${steps.single_at_the_end} one at a time.`],
    ["Bytes", `Pages and tail (exact rows that wait for their group, or are kept) as allocated when a window was read, over its ` +
      `tokens; all scales and other metadata are in them. The model's own cache has ${model.layers} layers × ${model.kv_heads} ` +
      `KV heads × ${model.head_dim} channels × 2: ${count(model.bytes_per_token_16_bit)} bytes per token in 16 bit. Bits per ` +
      `value spread all bytes over those values. Working memory that all sequences share is not counted.`],
    ["Perplexity", `e to the mean of −log p(next token), over the ${count(text.window - 1)} tokens of a window that have one ` +
      `before them. It says less than KL: text that is a little more likely by chance lowers it.`],
    ["KL", `Kullback–Leibler divergence in nats from the distribution over ${count(model.vocabulary)} tokens that the fp32 ` +
      `cache gives to the one that this cache gives, mean over all positions.`],
    ["Top-1", "Share of positions at which the most likely token is the one that it is with the fp32 cache."],
    ["Speed", "append and attend: tokens per second through all layers, in the steps of many tokens. decode: the median " +
      "time that attend takes for a single token at the end of a window. Every cache runs through the same portable code."],
  ];
  if (passkeys) {
    const lengths = passkeys.tasks.map(t => t.prompt_tokens);
    entries.splice(5, 0, ["Passkeys", `A number of five digits in about ${count(Math.max(...lengths))} tokens of filler, behind ` +
      `${passkeys.tasks.map(t => `${Math.round(100 * t.depth)} %`).join(", ")} of it; found if the model, asked for it at the end, ` +
      "continues with exactly these digits."]);
  }
  if (calibration) {
    entries.push(["Calibration", `Means, bases, kept channels and layer maps come from ${count(calibration.tokens)} tokens of other ` +
      `text: ${calibration.text}. Calibrated: ${caches.filter(c => c.calibrated).map(c => c.name).join(", ")}.`]);
  }
  const list = make("dl", {}, entries.flatMap(([name, words]) => [make("dt", {}, name), make("dd", {}, words)]));
  const types = make("dl", {}, caches.flatMap(c => [make("dt", {}, c.name),
    make("dd", {}, [c.summary + ". ", make("code", {}, c.composition)])]));
  document.getElementById("method").replaceChildren(list, make("h2", {}, "What the names mean"), types);
}

describeSetting();
drawSiblings();
drawTable(null, true);
drawFront(document.getElementById("front"));
drawPositions(document.getElementById("positions"), document.getElementById("legend"), document.getElementById("choice"));
drawSpeed(document.getElementById("speed"));
describeMethod();
