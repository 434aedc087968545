// Each part of the page, from the daemon's status. A part is drawn anew only if what it shows has changed, so that a
// selection in it stays.

const byId = (id) => document.getElementById(id);
const drawn = new Map();

function draw(id, shown, build) {
  const key = JSON.stringify(shown);
  if (drawn.get(id) === key) return;
  drawn.set(id, key);
  byId(id).replaceChildren(...[build()].flat().filter((child) => child !== null));
}

const MARKS = {
  good: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM6.9 11.6 3.6 8.3l1.3-1.3 2 2 4.2-4.2 1.3 1.3z",
  note: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zM7 3.6h2V5.5H7zM7 6.8h2v5.4H7z",
  warn: "M8 .8 16 15H0zM7.1 5.5h1.8l-.2 5H7.3zM7.1 11.6h1.8v1.7H7.1z",
  bad: "M4.7 0h6.6L16 4.7v6.6L11.3 16H4.7L0 11.3V4.7zM7 3.3h2l-.2 6H7.2zM7 10.7h2v2H7z",
};
const SIGNS = { good: "✓", note: "●", warn: "▲", bad: "■" };
const mark = (mood) => svg("svg", { class: `mark ${mood}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
  svg("path", { d: MARKS[mood], "fill-rule": "evenodd" }));

const age = ({ oldest_event_age_seconds: seconds }) => (seconds < 0.1 ? "a moment" : duration(seconds));

function headline(mood, sentence) {
  draw("glance", [mood, sentence], () => [mark(mood), el("h1", { id: "sentence" }, sentence)]);
  document.title = `${SIGNS[mood]} ${sentence}`;
}

function showGlance(status, verdict) {
  const about = `${status.version} · ${status.state} · up ${duration(status.uptime_seconds)}`;
  draw("about", about, () => about);
  headline(verdict.mood, verdict.sentence);
  const waiting = sum(status.buffer.events);
  const { accepted_per_second: come, done_with_per_second: go } = status.forecasts;
  const wait = waiting ? `${count(waiting)} ${waiting === 1 ? "waits" : "wait"}, the oldest for ${age(status.buffer)}` : "none waits";
  const { catching } = lag(status);
  const pace = `${rate(come)} events a second come in, ${rate(go)} leave; ${wait}${catching ? `; done in ${duration(status.forecasts.drained_in_seconds)}` : ""}.`;
  draw("pace", pace, () => pace);
}

function showAdvice(notes) {
  byId("advice-section").hidden = !notes.length;
  draw("advice", notes, () => notes.map(({ mood, what, said = [], how }) => el("li", { class: mood }, mark(mood),
    el("div", {}, el("p", { class: "what" }, what), said.map((text) => el("p", { class: "said" }, strange(text))), how ? el("p", {}, rich(how)) : null))));
}

const facts = (entries) => entries.map(([term, value, more]) =>
  el("div", {}, el("dt", {}, term), el("dd", {}, value, more ? el("small", {}, `${/^of /.test(more) ? "" : ","} ${more}`) : null)));

function showFlow({ history, forecasts }) {
  draw("flow", history, () => {
    const last = (values, otherwise) => (values.length ? values.at(-1) : otherwise);
    const series = [
      { name: "in", label: "accepted", values: history.accepted, area: true },
      { name: "refused", label: "refused", values: history.refused },
      { name: "out", label: "delivered", values: history.delivered },
    ];
    const now = { in: last(history.accepted, forecasts.accepted_per_second), out: last(history.delivered, forecasts.done_with_per_second), refused: last(history.refused, 0) };
    return [
      legend([0, 2, 1].map((index) => ({ ...series[index], value: rate(now[series[index].name]) }))),
      chart("Events a second", series, { format: rate }),
    ];
  });
}

function showDelivery({ delivery, holds }) {
  draw("delivery", [delivery, holds], () => {
    const times = ({ p50, p99 }) => (p50 === null ? ["–"] : [duration(p50), `99 % within ${duration(p99)}`]);
    const held = Object.entries(holds).map(([cause, { probe_in_seconds: probe }]) => `${cause}${typeof probe === "number" ? `, probe ${probe < 1 ? "now" : `in ${duration(probe)}`}` : ""}`);
    const { delivered, ...others } = delivery.attempts;
    const rest = Object.entries(others).map(([outcome, number]) => `${count(number)} ${outcome === "retryable" ? "to be repeated" : outcome}`);
    const failure = delivery.last_failure;
    return facts([
      ["On the wire", count(delivery.in_flight), `of ${count(delivery.concurrency_limit)} now, ${count(delivery.max_concurrency)} at most`],
      ["Holds", held.length ? held.join("; ") : "none"],
      ["One attempt", ...times(delivery.attempt_seconds)],
      ["Accepted to delivered", ...times(delivery.latency_seconds)],
      ["Attempts", `${count(delivered)} delivered`, rest.join(", ")],
      ["Failed last", failure ? strange(failed(failure)) : "none", failure ? `at ${clock(failure.at)}` : null],
    ]);
  });
}

function showBuffer({ buffer, forecasts, history, dead_letters: dead }) {
  draw("waiting", [history.buffered, buffer.events], () => [
    legend([
      { name: "buffered", value: count(sum(buffer.events)), label: "waiting" },
      ..."{{BUFFER_STATES}}".map((state) => ({ name: "plain", value: count(buffer.events[state] ?? 0), label: state.replace("_", " ") })),
    ]),
    chart("Events waiting in the buffer", [{ name: "buffered", label: "waiting", values: history.buffered, area: true }], { least: 10 }),
  ]);
  draw("room", [buffer.events, buffer.bytes, dead], () => {
    const percent = (used, most) => `${most ? (used && used / most < 0.0095 ? "<1" : Math.round((100 * used) / most)) : 0} %`;
    const of = (label, used, most, format) => meter(label, used, most, `${percent(used, most)} of ${format(most)}`);
    return [
      of("events", sum(buffer.events), buffer.max_events, count),
      of("bytes", buffer.bytes, buffer.max_bytes, bytes),
      of("dead letters", dead.events, dead.max_events, count),
    ];
  });
  draw("buffer", [buffer, forecasts], () => {
    const { full_in_seconds: full, drained_in_seconds: empty } = forecasts;
    return facts([
      ["Full", full === null ? "not in sight" : full === 0 ? "now" : `in ${duration(full)}`],
      ["Empty", empty === 0 ? "now" : empty === null ? "not in sight" : `in ${duration(empty)}`],
      ["Oldest", sum(buffer.events) ? age(buffer) : "–"],
      ["Kept", buffer.kind === "disk" ? "on disk" : "in memory"],
    ]);
  });
}

/** One row of the ledger's picture: parts are {name, number}; each that is not 0 can be seen. Returns where each begins and ends. */
function shares(parts, from, to) {
  const total = parts.reduce((all, { number }) => all + number, 0);
  if (!total) return [];
  const least = 6, whole = to - from;
  const some = parts.filter(({ number }) => number > 0);
  const small = some.filter(({ number }) => (number / total) * whole < least);
  const room = whole - small.length * least, rest = total - small.reduce((all, { number }) => all + number, 0);
  let at = from;
  return some.map((part) => {
    const width = small.includes(part) ? least : (part.number / rest) * room;
    at += width;
    return { ...part, from: at - width, to: at };
  });
}

function equation(total, label, parts, missing) {
  const terms = parts.flatMap(({ name, number, label: called }, index) => [
    el("span", { class: "sign" }, index ? " + " : " = "),
    el("span", { class: number ? "term" : "term zero" }, el("i", { class: `swatch ${name}` }), el("strong", {}, count(number)), ` ${called}`),
  ]);
  const verdict = missing ? `${count(Math.abs(missing))} ${missing > 0 ? "missing" : "too many"}` : "balances";
  return el("p", { class: "equation" }, el("span", { class: "term" }, el("strong", {}, count(total)), ` ${label}`), terms,
    el("span", { class: missing ? "verdict off" : "verdict" }, verdict));
}

function showLedger({ ledger: { for_ever: all, since_start: now } }) {
  draw("ledger", [all, now], () => {
    const came = [
      { name: "accepted", number: all.accepted, label: "accepted" },
      { name: "duplicates", number: all.duplicates, label: "duplicates" },
      { name: "refused", number: all.rejected, label: "refused" },
    ];
    const went = [
      { name: "out", number: all.delivered, label: "delivered" },
      { name: "buffered", number: all.buffered, label: "waiting" },
      { name: "dead", number: sum(all.dead_lettered), label: "dead letters" },
      { name: "dropped", number: sum(all.dropped), label: "lost" },
    ];
    const missing = all.received - all.accepted - all.duplicates - all.rejected;
    const upper = equation(all.received, "received", came, missing), lower = equation(all.accepted, "accepted", went, all.unaccounted);
    const since = el("p", { class: "since" }, `Since the start: ${count(now.received)} received, ${count(now.accepted)} accepted, ${count(now.duplicates)} duplicates, `
      + `${count(now.rejected)} refused; ${count(now.delivered)} delivered, ${count(sum(now.dead_lettered))} dead letters, ${count(sum(now.dropped))} lost.`);
    if (!all.received) return [el("p", { class: "none" }, rich("No event has come yet. Try: `growlytics-forwarder send --customer me --name Hello`")), since];
    const above = shares([...came, { name: "missing", number: Math.max(0, missing) }], 0, 1000);
    const accepted = above.find(({ name }) => name === "accepted");
    const below = accepted ? shares([...went, { name: "missing", number: Math.max(0, all.unaccounted) }], accepted.from, accepted.to) : [];
    const bar = (y) => ({ name, from, to }) => svg("rect", { class: `part ${name}`, x: from, y, width: to - from, height: 22 });
    const picture = svg("svg", { class: "balance", viewBox: "0 0 1000 78", preserveAspectRatio: "none", role: "img",
      "aria-label": `What came, above, and what became of what was accepted, below, to scale: ${upper.textContent}. ${lower.textContent}.` },
      above.map(bar(0)),
      accepted ? svg("path", { class: "link", d: `M${accepted.from} 22H${accepted.to}V56H${accepted.from}Z` }) : null,
      below.map(bar(56)));
    return [upper, picture, lower, since];
  });
}

function showLists({ recent, attribute_types: types }) {
  draw("refusals", recent.refusals, () => table("Refused last", ["Last at", "Why, intake", "Event, field", "Events"],
    recent.refusals.map(({ at, code, name, field, intake, events: number }) => [
      clock(at), [codeOf(code), " ", el("span", { class: "place" }, intake)], [name === null ? el("span", { class: "none" }, "–") : strange(name), field ? [" ", el("span", { class: "place" }, strange(field))] : null],
      el("span", { class: "number" }, count(number))]),
    "Nothing was refused since the start."));
  draw("letters", recent.dead_letters, () => table("Given up last", ["At", "Why", "Event, id"],
    recent.dead_letters.map(({ at, reason, status, name, id }) => [
      clock(at), [codeOf(reason), status === null ? null : ` ${status}`], [strange(name), " ", el("span", { class: "place" }, String(id))]]),
    "No event became a dead letter since the start."));
  draw("types-about", [types.policy, types.learned, types.fixed, types.max], () =>
    `${count(types.learned)} of ${count(types.max)} learned, ${count(types.fixed)} fixed; on a conflict: ${types.policy}`);
  draw("types", types.conflicts, () => table("Attributes that changed their type", ["Last at", "Event, attribute", "Was, came as", "Done", "Times"],
    types.conflicts.map(({ last_at: at, name, attribute, expected, found, action, conflicts: number }) =>
      [clock(at), [strange(name), " ", el("span", { class: "place" }, strange(attribute))], `${expected} → ${found}`, action, el("span", { class: "number" }, count(number))]),
    "None did since the start."));
}

function show(status) {
  const verdict = judge(status);
  showGlance(status, verdict);
  showAdvice(verdict.notes);
  showFlow(status);
  showDelivery(status);
  showBuffer(status);
  showLedger(status);
  showLists(status);
  byId("shown").hidden = false;
}
