// The head of the page: how the daemon is, what to do about it, and where else to look. A part is drawn anew only if what it
// shows has changed, so that a selection in it stays.

const byId = (id) => document.getElementById(id);
const drawn = new WeakMap();

function draw(place, shown, build) {
  const key = JSON.stringify(shown ?? null);
  if (drawn.get(place) === key) return;
  drawn.set(place, key);
  place.replaceChildren(...[build()].flat(Infinity).filter((child) => child !== null));
}

const MARKS = {
  good: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM6.9 11.6 3.6 8.3l1.3-1.3 2 2 4.2-4.2 1.3 1.3z",
  note: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM7 3.6h2V5.5H7zM7 6.8h2v5.4H7z",
  warn: "M8 .8 16 15H0zM7.1 5.5h1.8l-.2 5H7.3zM7.1 11.6h1.8v1.7H7.1z",
  bad: "M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7zM7 3.3h2l-.2 6H7.2zM7 10.7h2v2H7z",
};
const SIGNS = { good: "✓", note: "●", warn: "▲", bad: "■" };
const ICON_COLOURS = { good: "#0f9d86", note: "#4d86cc", warn: "#c98a1b", bad: "#d9303b" };
const SAID = { good: "good", note: "note", warn: "warning", bad: "serious" };
const known = (mood) => (Object.hasOwn(MARKS, mood) ? mood : "warn");
const mark = (mood) => svg("svg", { class: `mark ${mood}`, viewBox: "0 0 16 16", role: "img", "aria-label": SAID[mood] },
  svg("path", { d: MARKS[mood], "fill-rule": "evenodd" }));
const icon = (mood) => `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="${SVG}" viewBox="0 0 16 16">`
  + `<path fill="${ICON_COLOURS[mood]}" fill-rule="evenodd" d="${MARKS[mood]}"/></svg>`)}`;

/** Show how the daemon is. A screen reader is told when that changes: not each time that the sentence has another number. */
function headline(anyMood, sentence, state = sentence) {
  const mood = known(anyMood);
  draw(byId("announced"), [mood, state], () => sentence);
  draw(byId("glance"), [mood, sentence], () => [mark(mood), el("h1", { id: "sentence", class: sentence.length > 90 ? "long" : "short" }, sentence)]);
  document.title = `${SIGNS[mood]} ${sentence}`;
  byId("icon").setAttribute("href", icon(mood));
}

const waits = (buffer) => sum(buffer.events);

function showGlance({ headline: { mood, text, state: how }, version, instance, state, uptime_seconds: up, delivery, buffer, rates }) {
  draw(byId("about"), [version, instance, state, duration(up), delivery.destination], () => [
    `${version} on `, el("span", { class: "instance" }, strange(instance)), ` · ${state} · up ${duration(up)} · sends to `, el("code", { class: "destination" }, strange(delivery.destination))]);
  headline(mood, text, how);
  const number = waits(buffer);
  const wait = number ? `${count(number)} ${number === 1 ? "waits" : "wait"}, the oldest for ${duration(buffer.oldest_event_age_seconds)}` : "none waits";
  const pace = `${rate(rates.accepted_per_second)} events a second accepted, ${rate(rates.delivered_per_second)} delivered, `
    + `${rate(rates.refused_per_second)} refused; ${wait}.`;
  draw(byId("pace"), pace, () => pace);
}

function copyButton(command) {
  if (!navigator.clipboard) return null;
  const button = el("button", { type: "button", class: "copy", "aria-label": `Copy the command: ${command}` }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command).then(() => { button.textContent = "Copied"; }, () => { button.textContent = "Select it, and copy"; });
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

const listed = new Map(); // the parts of each problem that is shown, by its kind

function partsOf(key) {
  if (!listed.has(key)) {
    const parts = { mark: el("span", {}), what: el("p", { class: "what" }), cause: el("p", { class: "cause" }), fix: el("p", { class: "fix" }), commands: el("ul", { class: "commands" }) };
    listed.set(key, { ...parts, whole: el("li", {}, parts.mark, el("div", {}, parts.what, parts.cause, parts.fix, parts.commands)) });
  }
  return listed.get(key);
}

/** Show each problem in its place, and change only the texts that differ: durations pass, and a command stays selected. */
function showProblems(problems) {
  const keys = problems.map(({ kind }, index) => `${kind} ${problems.slice(0, index).filter((other) => other.kind === kind).length}`);
  for (const key of listed.keys()) if (!keys.includes(key)) listed.delete(key);
  const wholes = problems.map(({ kind, mood, what, cause, fix, commands }, index) => {
    const parts = partsOf(keys[index]);
    parts.whole.dataset.kind = kind;
    draw(parts.mark, mood, () => mark(known(mood)));
    draw(parts.what, what, () => rich(what));
    draw(parts.cause, cause, () => (cause ? ["Cause: ", strange(cause)] : []));
    draw(parts.fix, fix, () => rich(fix ?? ""));
    draw(parts.commands, commands, () => (commands ?? []).map((command) => el("li", {}, el("code", { class: "command", tabindex: 0 }, command), copyButton(command))));
    return parts.whole;
  });
  const list = byId("problems");
  if (wholes.length !== list.children.length || wholes.some((whole, index) => whole !== list.children[index])) list.replaceChildren(...wholes);
  byId("problems-section").hidden = !problems.length;
}

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

const ALL = { "0.0.0.0": "127.0.0.1", "[::]": "[::1]" }; // all addresses of a kind, and the own one among them

/** Where the metrics are for this browser; null if it cannot reach them, as it is on another machine. */
function metricsUrl(address) {
  if (!/^(\[[\w:.%]+\]|[\w.-]+):\d+$/.test(address)) return null;
  const found = new URL(`http://${address}/metrics`), isHere = LOOPBACK.test(location.hostname);
  if (Object.hasOwn(ALL, found.hostname)) found.hostname = isHere ? ALL[found.hostname] : location.hostname;
  return LOOPBACK.test(found.hostname) && !isHere ? null : found.href;
}

function showLinks({ addresses }) {
  const url = SHARED ? "metrics" : metricsUrl(addresses?.admin ?? "");
  const metrics = url ? el("a", { href: url }, "Metrics") : addresses?.admin ? ["Metrics: ", el("code", {}, `${addresses.admin}/metrics`)] : "No metrics: admin.http is off";
  draw(byId("links"), [url, addresses?.admin], () => (SHARED ? [metrics] : [metrics, " · ", documentLink()]));
}
