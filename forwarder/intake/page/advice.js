// What the daemon's status means, in two sentences, and what to do about it. Pure.

const NEARLY_FULL = 0.8;
const FILLING = 0.05;
const SOON_SECONDS = 3600;
const BEHIND_SECONDS = 30;

const sum = (numbers) => Object.values(numbers ?? {}).reduce((total, number) => total + number, 0);

const HOLDS = {
  auth: {
    mood: "bad", short: "Growlytics refuses the forwarder",
    fix: "Give it a valid key: the file of `growlytics.api_key_file` is read again when it changes, `growlytics.api_key` on "
      + "SIGHUP. If the key is good, check `growlytics.url`.",
  },
  systemic: {
    mood: "bad", short: "Growlytics rejects every event",
    fix: "The cause is probably not the events: check what was deployed last, in the app or by Growlytics. "
      + "`growlytics-forwarder dead-letters list` shows its answers.",
  },
  not_growlytics: {
    mood: "bad", short: "Something else answers in place of Growlytics",
    fix: "It may be a captive portal, a proxy's page or a maintenance page. Open `growlytics.url` from this machine, and check "
      + "`growlytics.proxy`. The pause ends by itself when Growlytics answers.",
  },
  breaker: {
    mood: "warn", short: "Growlytics does not answer, or fails",
    fix: "The pause ends by itself when Growlytics is back. If other machines reach it, check this machine's network, and "
      + "`growlytics.url`, `growlytics.proxy` and `growlytics.ca_file`.",
  },
  retry_after: {
    mood: "warn", short: "Growlytics asks the forwarder to wait",
    fix: "The pause ends by itself. If it comes often, set `delivery.rate_limit_per_second`, or a lower `delivery.max_concurrency`.",
  },
};
const UNKNOWN_HOLD = { mood: "warn", short: "Delivery is paused (hold)", fix: "The daemon's log says more." };

const DROPPED = {
  drop_oldest: "The buffer was full, and the oldest events were dropped, as `buffer.when_full = \"drop_oldest\"` says. Raise "
    + "`buffer.max_events` and `buffer.max_bytes`, or set `reject`, which refuses new events instead.",
  corrupt: "The disk lost or altered them: check the disk of `buffer.directory`.",
  shutdown: "The daemon stopped before they were delivered: `buffer.kind = \"disk\"` outlives it.",
};

/** How full the buffer is, from 0 to 1, by the nearer of its two bounds. */
function fullness(buffer) {
  const share = (used, most) => (most ? used / most : 0);
  return Math.max(share(sum(buffer.events), buffer.max_events), share(buffer.bytes, buffer.max_bytes));
}

/** Why the last failed attempt failed, and at which host. */
const failed = ({ error, host }) => `${error}${host ? ` (${host})` : ""}`;

function holdNotes({ holds, delivery: { last_failure: failure } }) {
  const said = failure ? [failed(failure)] : [];
  return Object.entries(holds).map(([cause, { seconds, probe_in_seconds: probe }]) => {
    const { mood, short, fix } = HOLDS[cause] ?? UNKNOWN_HOLD;
    const next = typeof probe === "number" ? `the next probe goes ${probe < 1 ? "at once" : `in ${duration(probe)}`}` : "a probe is due or under way";
    return { mood, what: `${short}, for ${duration(seconds)} now.`, said, how: `Events wait in the buffer; ${next}. ${fix}` };
  });
}

function bufferNotes({ buffer, forecasts }) {
  const notes = [];
  const raise = buffer.kind === "memory"
    ? "Raise `buffer.max_events` and `buffer.max_bytes` for the next start; what is in memory now does not outlive the daemon."
    : "Raise `buffer.max_events` and `buffer.max_bytes` if the disk has room, and restart: what is buffered stays.";
  if (buffer.available === false) {
    notes.push({ mood: "bad", what: "The buffer's disk is full, fails or is gone: new events are refused.",
      how: "Make room on the disk of `buffer.directory`, or repair it; the log names the error. The daemon tries again by itself." });
  }
  if (fullness(buffer) >= 0.999) {
    notes.push({ mood: "bad", what: "The buffer is full.", how: `New events are refused (429), or the oldest dropped, as \`buffer.when_full\` says. ${raise}` });
  } else if (fullness(buffer) >= NEARLY_FULL || (fullness(buffer) >= FILLING && (forecasts.full_in_seconds ?? Infinity) < SOON_SECONDS)) {
    const when = forecasts.full_in_seconds === null ? "" : `, and is full in ${duration(forecasts.full_in_seconds)} if this goes on`;
    notes.push({ mood: "warn", what: `The buffer is ${Math.round(100 * fullness(buffer))} % full${when}.`, how: raise });
  }
  return notes;
}

function suspectNotes({ delivery: { suspects } }) {
  if (!suspects?.events) return [];
  const { name, status, refusals } = suspects.first;
  return [{ mood: "warn", what: `${events(suspects.events)} ${suspects.events === 1 ? "is" : "are"} refused, while others may be delivered.`,
    said: [`${name}: ${status}, refused ${refusals} ${refusals === 1 ? "time" : "times"}`],
    how: "A web application firewall or a filter before Growlytics may object to its content. It is tried again, and later events of its customer "
      + "wait for it; it becomes a dead letter after others have been delivered for long enough." }];
}

function lossNotes(ledger) {
  const dropped = Object.entries(ledger.since_start.dropped).filter(([, number]) => number > 0);
  const notes = dropped.map(([reason, number]) =>
    ({ mood: "bad", what: `${events(number)} ${number === 1 ? "was" : "were"} lost since the start.`, how: DROPPED[reason] ?? "The daemon's log says why." }));
  if (ledger.for_ever.unaccounted) {
    notes.push({ mood: "bad", what: `${events(Math.abs(ledger.for_ever.unaccounted))} unaccounted for: the ledger does not balance.`,
      how: "This is a bug, or the buffer's file was changed by something else. Keep the log, and report it." });
  }
  return notes;
}

function deadLetterNotes({ dead_letters: dead }) {
  if (!dead.events) return [];
  const share = Math.max(dead.events / dead.max_events, dead.bytes / dead.max_bytes);
  const full = share >= NEARLY_FULL
    ? ` There is room for ${Math.max(0, Math.round(100 * (1 - share)))} % more, then the oldest go: raise \`dead_letters.max_events\` and \`dead_letters.max_bytes\`.` : "";
  return [{ mood: full ? "warn" : "note", what: `${events(dead.events)} ${dead.events === 1 ? "was" : "were"} not delivered, and ${dead.events === 1 ? "is" : "are"} kept as dead letters.`,
    how: `See why with \`growlytics-forwarder dead-letters list\`; when that is fixed, send them again with \`growlytics-forwarder dead-letters replay --all\`.${full}` }];
}

function typeNotes({ attribute_types: types }) {
  const notes = [];
  const how = {
    observe: "Growlytics ignores such attributes. Fix the app, or let the forwarder convert them: "
      + "`contract.types_file` with `contract.attribute_types = \"coerce\"`. All of them: `growlytics-forwarder attribute-types list`.",
  }[types.policy] ?? "`contract.attribute_types` says what was done about it. All of them: `growlytics-forwarder attribute-types list`.";
  if (types.conflicts.length) notes.push({ mood: "note", what: "Attributes came with another type than before; they are listed below.", how });
  if (types.full) notes.push({ mood: "note", what: "The table of attribute types is full: new ones replace those that were seen once.", how: "Look for ids in the names of events and attributes, or raise `contract.max_attribute_types`." });
  return notes;
}

function settingsNotes({ settings }) {
  const notes = [];
  if (settings?.error) notes.push({ mood: "warn", what: "The settings that were read last cannot be used; the earlier ones stay in use.", said: [settings.error], how: "Fix them, and send SIGHUP again." });
  if (settings?.restart_needed?.length) notes.push({ mood: "note", what: "Settings have changed that need a restart:", said: settings.restart_needed, how: "" });
  return notes;
}

/** Whether delivery is `behind`, as the oldest event has waited long; and if so, whether it is `catching` up. */
function lag({ buffer, forecasts, holds }) {
  const behind = !Object.keys(holds).length && sum(buffer.events) > 0 && buffer.oldest_event_age_seconds > BEHIND_SECONDS;
  return { behind, catching: behind && forecasts.drained_in_seconds !== null };
}

function lagNotes(status) {
  const { behind, catching } = lag(status);
  const { concurrency_limit: limit, max_concurrency: most } = status.delivery;
  if (!behind || catching) return [];
  const how = limit >= most
    ? "As many attempts as allowed are made: raise `delivery.max_concurrency` if Growlytics can take more, or check `delivery.rate_limit_per_second`."
    : "Growlytics slows down under more load, so the forwarder sends less; or one customer has many events, which are sent one by one (`delivery.order`).";
  return [{ mood: "warn", what: `The oldest event has waited for ${duration(status.buffer.oldest_event_age_seconds)}.`, how }];
}

function sentence(status) {
  const { ledger, buffer, holds } = status;
  const lost = sum(ledger.since_start.dropped), unaccounted = ledger.for_ever.unaccounted;
  const loss = unaccounted ? "The ledger does not balance." : lost ? `${events(lost)} ${lost === 1 ? "is" : "are"} lost.` : "All events are safe.";
  const [cause] = Object.keys(HOLDS).filter((each) => each in holds).concat(Object.keys(holds));
  if (status.state !== "ready") return `${loss} The daemon is ${status.state}.`;
  if (buffer.available === false) return `${loss} The buffer's disk fails: new events are refused.`;
  if (fullness(buffer) >= 0.999) return `${loss} The buffer is full.`;
  if (cause) return `${loss} ${(HOLDS[cause] ?? UNKNOWN_HOLD).short}: events wait.`;
  const { behind, catching } = lag(status);
  return `${loss} Delivery is ${catching ? "catching up" : behind ? "falling behind" : "keeping up"}.`;
}

/** Return {mood, sentence, notes}: mood is good, note, warn or bad; notes are {mood, what, said, how}, the worst first. */
function judge(status) {
  const order = "{{MOODS}}";
  const notes = [
    ...lossNotes(status.ledger), ...holdNotes(status), ...suspectNotes(status), ...bufferNotes(status), ...lagNotes(status),
    ...settingsNotes(status), ...deadLetterNotes(status), ...typeNotes(status),
  ].sort((a, b) => order.indexOf(a.mood) - order.indexOf(b.mood));
  const worst = notes.length ? notes[0].mood : "good";
  const mood = worst === "note" ? "good" : worst;
  return { mood: mood === "good" && status.state !== "ready" ? "warn" : mood, sentence: sentence(status), notes };
}
