// Each part of the page below its head, from the daemon's status.

const facts = (entries) => entries.map(([term, value, more]) =>
  el("div", {}, el("dt", {}, term), el("dd", {}, value, more ? el("small", {}, /^of /.test(more) ? " " : ", ", more) : null)));

function showFlow({ history, rates }) {
  draw(byId("flow-about"), rates.over_seconds, () => `events a second, over ${duration(rates.over_seconds)}`);
  draw(byId("flow"), [history, rates], () => {
    const series = [
      { name: "in", label: "accepted", values: history.accepted, now: rates.accepted_per_second, area: true },
      { name: "out", label: "delivered", values: history.delivered, now: rates.delivered_per_second },
      { name: "refused", label: "refused", values: history.refused, now: rates.refused_per_second },
    ];
    return [legend(series.map(({ name, label, now }) => ({ name, label, value: `${rate(now)}/s` }))), chart("Events a second", [series[0], series[2], series[1]], { format: rate })];
  });
}

const failed = ({ error, host }) => `${error}${host ? ` (${host})` : ""}`;

function showDelivery({ delivery, holds }) {
  draw(byId("delivery"), [delivery, Object.keys(holds)], () => {
    const times = ({ p50, p99 }) => (p50 === null ? ["–"] : [duration(p50), `99 % within ${duration(p99)}`]);
    const { delivered, ...others } = delivery.attempts;
    const rest = Object.entries(others).map(([outcome, number]) => `${count(number)} ${outcome === "retryable" ? "to be repeated" : outcome}`);
    const failure = delivery.last_failure;
    return facts([
      ["Failed last", failure ? strange(failed(failure)) : "none", failure ? time(failure.at) : null],
      ["Paused by", Object.keys(holds).join(", ") || "nothing"],
      ["On the wire", count(delivery.in_flight), `of ${count(delivery.concurrency_limit)} now, ${count(delivery.max_concurrency)} at most`],
      ["One attempt", ...times(delivery.attempt_seconds)],
      ["Accepted to delivered", ...times(delivery.latency_seconds)],
      ["Attempts since the start", `${count(delivered)} succeeded`, rest.join(", ")],
    ]);
  });
}

function showBuffer({ buffer, history, dead_letters: dead }) {
  draw(byId("waiting"), [history.buffered, buffer.events], () => [
    legend([
      { name: "buffered", value: count(waits(buffer)), label: "waiting" },
      ..."{{BUFFER_STATES}}".map((state) => ({ name: "plain", value: count(buffer.events[state] ?? 0), label: state.replace("_", " ") })),
    ]),
    chart("Events waiting in the buffer", [{ name: "buffered", label: "waiting", values: history.buffered, now: waits(buffer), area: true }], { least: 10 }),
  ]);
  draw(byId("room"), [buffer.events, buffer.bytes, dead], () => {
    const percent = (used, most) => `${most ? (used && used / most < 0.0095 ? "<1" : Math.round((100 * used) / most)) : 0} %`;
    const of = (label, used, most, format) => meter(label, used, most, `${percent(used, most)} of ${format(most)}`);
    return [
      of("events", waits(buffer), buffer.max_events, count),
      of("bytes", buffer.bytes, buffer.max_bytes, bytes),
      of("dead letters", dead.events, dead.max_events, count),
    ];
  });
  draw(byId("buffer"), [buffer.kind], () => facts([["Kept", buffer.kind === "disk" ? "on disk" : buffer.kind === "memory" ? "in memory" : `in ${buffer.kind}`]]));
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

/** What was dropped, as two numbers: what somebody erased is no loss. */
function gone({ erased = 0, ...others }) {
  return { erased, dropped: sum(others) };
}

const eraseds = (number) => (number ? `, ${count(number)} erased` : "");

/** Where apps post. */
function doors({ http, unix }) {
  const places = [http && `http://${http}/track/event`, unix].filter(Boolean);
  return places.map((each, index) => [index ? " or " : "Apps post to ", el("code", {}, each)]).concat(places.length ? ["."] : []);
}

function showLedger({ addresses, ledger: { for_ever: all, since_start: now } }) {
  draw(byId("ledger"), [addresses, all, now], () => {
    const { dropped, erased } = gone(all.dropped), sinceStart = gone(now.dropped);
    const came = [
      { name: "accepted", number: all.accepted, label: "accepted" },
      { name: "duplicates", number: all.duplicates, label: "duplicates" },
      { name: "refused", number: all.rejected, label: "refused" },
    ];
    const went = [
      { name: "out", number: all.delivered, label: "delivered" },
      { name: "buffered", number: all.buffered, label: "waiting" },
      { name: "dead", number: sum(all.dead_lettered), label: "dead-lettered" },
      { name: "dropped", number: dropped, label: "dropped" },
      ...(erased ? [{ name: "plain", number: erased, label: "erased" }] : []),
    ];
    const missing = all.received - all.accepted - all.duplicates - all.rejected;
    const upper = equation(all.received, "received", came, missing), lower = equation(all.accepted, "accepted", went, all.unaccounted);
    const since = ["received", "accepted", "delivered"].every((name) => all[name] === now[name]) ? null : el("p", { class: "since" }, `Since the start: ${count(now.received)} received, ${count(now.accepted)} accepted, `
      + `${count(now.duplicates)} duplicates, ${count(now.rejected)} refused; ${count(now.delivered)} delivered, ${count(sum(now.dead_lettered))} dead-lettered, ${count(sinceStart.dropped)} dropped${eraseds(sinceStart.erased)}.`);
    if (!all.received) return [el("p", { class: "none" }, "No event has come yet. ", doors(addresses)), since];
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

const place = (text) => [" ", el("span", { class: "place" }, strange(text))];
const times = (number) => el("span", { class: "number" }, count(number));

function showLists({ recent, attribute_types: types }) {
  draw(byId("refusals"), recent.refusals, () => table("Refused last", ["Last at", "Why, intake", "Event, field", "Events"],
    recent.refusals.map(({ at, code, name, field, intake, events: number }) =>
      [time(at), [codeOf(code), place(intake)], [strange(name), field ? place(field) : null], times(number)]),
    "Nothing was refused since the start."));
  draw(byId("letters"), recent.dead_letters, () => table("Dead letters", ["At", "Why", "Event, id"],
    recent.dead_letters.map(({ at, reason, status, name, id }) =>
      [time(at), [codeOf(reason), status === null ? null : ` ${status}`], [strange(name), id ? place(id) : null]]),
    "No event became a dead letter since the start."));
  draw(byId("types-about"), [types.policy, types.learned, types.fixed, types.max], () =>
    `${count(types.learned)} of ${count(types.max)} learned, ${count(types.fixed)} fixed; on a conflict: ${types.policy}`);
  draw(byId("types"), types.conflicts, () => table("Attributes that changed their type", ["Last at", "Event, attribute", "Was, came as", "Done", "Times"],
    types.conflicts.map(({ last_at: at, name, attribute, expected, found, action, conflicts: number }) =>
      [time(at), [strange(name), attribute ? place(attribute) : null], `${expected} → ${found}`, action, times(number)]),
    "None did since the start."));
}

function show(status) {
  showGlance(status);
  showProblems(status.problems);
  showLinks(status);
  showFlow(status);
  showDelivery(status);
  showBuffer(status);
  showLedger(status);
  showLists(status);
  byId("shown").hidden = false;
}
