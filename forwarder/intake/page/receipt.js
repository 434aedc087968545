// What became of one event.

const WRONG_ID = "The id of an event is a number of at most 18 digits, as in the answer to its post.";

const RECEIPTS = {
  buffered: () => ["waits in the buffer."],
  parked: ({ until }) => ["waits in the buffer; it is tried again at ", time(until), "."],
  delivered: ({ at }) => ["was delivered at ", time(at), "."],
  dead_letter: ({ at, reason }) => ["became a dead letter at ", time(at), ": ", codeOf(reason), "."],
  dropped: ({ at, reason }) => ["was dropped at ", time(at), ": ", codeOf(reason), "."],
  replaced: ({ at, new_id: id }) => ["goes on under another id since ", time(at), ": ", strange(id), "."],
};

function said(receipt) {
  const { id, state } = receipt;
  return ["Event ", strange(id), " ", (Object.hasOwn(RECEIPTS, state) ? RECEIPTS[state] : (() => [`is ${state}.`]))(receipt)];
}

async function look(id) {
  if (!/^[0-9]{1,18}$/.test(id)) return WRONG_ID;
  const answer = await get(`v1/events/${id}`);
  if (answer.status === 401) {
    askForToken();
    return [];
  }
  if (answer.status === 404) {
    return [`No event with the id ${id} is known here. It may be another forwarder's; and what became of an event is known for the last `,
      el("code", {}, "receipts.max_events"), " that left the buffer since the start."];
  }
  return answer.ok ? said(await answer.json()) : `The daemon answers ${answer.status}.`;
}

byId("look").addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = await look(byId("event").value.trim()).catch(() => "The daemon cannot be reached.");
  byId("receipt").replaceChildren(...[shown].flat(Infinity));
});
