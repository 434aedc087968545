"use strict";
// Elements, texts and pictures. Whatever the daemon says becomes text nodes here, and never markup.

const SVG = "http://www.w3.org/2000/svg";
const SHARED = "shared" in document.body.dataset; // the page without names, of the admin listener

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}
const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

/** A name that a stranger chose: its direction does not spill over. The page without names has none. */
const strange = (name) => el("bdi", {}, String(name ?? "–"));

/** Our own text, in which backticks enclose code. */
const rich = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));

/** A code with underscores, after which a line may end. */
const codeOf = (code) => el("code", {}, code.split(/(?<=_)/).map((part) => [part, el("wbr")]));

const halfEven = (number) => { const whole = Math.round(number); return whole % 2 && number % 1 === 0.5 ? whole - 1 : whole; };
const count = (number) => halfEven(number).toLocaleString("en-US");

/** How many a second; as the daemon writes it in its texts, so that the same number looks the same everywhere. */
const rate = (perSecond) => (perSecond >= 100 ? count(perSecond) : String(perSecond));

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (number >= 1024 && power < units.length - 1) { number /= 1024; power += 1; }
  return `${power && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[power]}`;
}

/** A time in its two largest units, again as the daemon writes it. */
function duration(seconds) {
  if (seconds > 0 && seconds < 1) return `${halfEven(1000 * seconds)} ms`;
  if (seconds < 10) return seconds ? `${seconds.toFixed(1)} s` : "0 s";
  let left = halfEven(seconds);
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (left >= size || parts.length) parts.push(`${Math.floor(left / size)} ${unit}`);
    left %= size;
  }
  return parts.slice(0, 2).filter((part) => !part.startsWith("0 ")).join(" ");
}

const sum = (numbers) => Object.values(numbers ?? {}).reduce((total, number) => total + number, 0);

/** A time with its zone, and with its date unless that is today. */
function time(seconds) {
  const at = new Date(1000 * seconds);
  const isToday = at.toDateString() === new Date().toDateString();
  const parts = { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short", ...(isToday ? {} : { day: "numeric", month: "short" }) };
  return el("time", { datetime: at.toISOString() }, at.toLocaleString("en-GB", parts));
}

/** The lowest of 1, 2, 3, 4, 6, 8, 10, 20 … that is not below a number. */
function ceiling(number) {
  if (number <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 3, 4, 6, 8, 10].map((factor) => factor * power).find((round) => round >= number * 0.9999);
}

/**
 * The last five minutes; now is at the right. `series` are {name, label, values, now, area}, the values oldest first and alike
 * long; `most` is how many values five minutes have, and `least` the lowest that the scale ends with.
 */
function chart(title, series, { most = 60, least = 0, format = count } = {}) {
  const width = 600, height = 130;
  const top = ceiling(Math.max(least, ...series.flatMap((each) => each.values)));
  const lines = series.flatMap(({ name, values, area }) => {
    const at = (index) => width - ((values.length - 1 - index) * width) / (most - 1);
    const points = values.map((value, index) => `${at(index).toFixed(1)} ${(height - (value / top) * height).toFixed(1)}`);
    if (!points.length) return [];
    return [
      area ? svg("path", { class: `area ${name}`, d: `M${at(0)} ${height}L${points.join("L")}L${width} ${height}Z` }) : null,
      svg("path", { class: `line ${name}`, d: `M${points.join("L")}` }),
      svg("path", { class: `dot ${name}`, d: `M${points.at(-1)}h0` }),
    ];
  });
  const said = series.map(({ label, values, now }) =>
    `${label}: ${format(now)} now${values.length ? `, from ${format(Math.min(...values))} to ${format(Math.max(...values))} before` : ""}`);
  return el("figure", { class: "chart" },
    el("div", { class: "scale", "aria-hidden": "true" }, el("span", {}, format(top)), el("span", {}, format(top / 2)), el("span", {}, "0")),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${title}, over the last five minutes. ${said.join("; ")}.` },
      [0, 0.5, 1].map((share) => svg("path", { class: "grid", d: `M0 ${share * height}H${width}` })), lines),
    el("div", { class: "time", "aria-hidden": "true" }, el("span", {}, "5 min ago"), el("span", {}, "now")));
}

const legend = (entries) => el("ul", { class: "legend" }, entries.map(({ name, value, label }) =>
  el("li", { class: name }, el("i", { class: `swatch ${name}` }), el("strong", {}, value), ` ${label}`)));

function meter(label, value, most, text) {
  const share = most ? Math.min(1, value / most) : 0;
  return el("div", { class: "room" }, el("span", {}, label),
    svg("svg", { class: "meter", viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "meter", "aria-label": label,
      "aria-valuemin": 0, "aria-valuemax": most, "aria-valuenow": value, "aria-valuetext": text },
      svg("rect", { class: "track", width: 100, height: 1 }),
      svg("rect", { class: share >= 0.8 ? "level high" : "level", width: 100 * share, height: 1 })),
    el("span", { class: "figure" }, text));
}

/** A table, of which each cell knows its head: where the window is narrow, a row is a block of lines. */
function table(label, heads, rows, empty) {
  if (!rows.length) return el("p", { class: "none" }, empty);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el("table", { role: "table" },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads.map((head) => el("th", { scope: "col", role: "columnheader" }, head)))),
      el("tbody", { role: "rowgroup" }, rows.map((cells) => el("tr", { role: "row" }, cells.map((cell, index) => el("td", { role: "cell", "data-head": heads[index] }, el("div", {}, cell))))))));
}
