// Asking the daemon, every two seconds while the page is in sight, and what to say when it does not answer.

const POLL_MS = 2000;
const ANSWER_MS = 5000;

let token = null; // here and nowhere else
let asking = false;
let locked = false;
let timer = null;
let heardAt = null;

const get = (path) => fetch(path, { headers: token === null ? {} : { Authorization: `Bearer ${token}` }, cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) });

async function ask() {
  const answer = await get(SHARED ? "status.json" : "v1/status");
  if (answer.status === 401) return null;
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
}

function showOutage(reason) {
  const since = heardAt === null ? ["It has not answered yet."]
    : ["It last answered at ", time(heardAt / 1000), `, ${duration(Math.max(1, (Date.now() - heardAt) / 1000))} ago; the status below is from then.`];
  headline("bad", `The daemon cannot be reached${reason}.`);
  draw(byId("pace"), since.map(String).concat(heardAt), () => [since, " Is it running, and is this still its address?"]);
  document.body.classList.add("stale");
}

function showHeard() {
  heardAt = Date.now();
  document.body.classList.remove("stale");
}

function askForToken() {
  const wrong = token !== null;
  token = null;
  locked = true;
  byId("wrong").textContent = wrong ? "The daemon does not accept this token. Check that it is complete, and the token of this daemon." : "";
  byId("ask").hidden = false;
  byId("shown").hidden = true;
  headline("note", "This daemon asks for its token.");
  for (const id of ["about", "pace", "links", "receipt"]) draw(byId(id), null, () => []);
  byId("token").focus();
}

/** A link to the API document; the browser alone would not send the token with it. */
function documentLink() {
  const link = el("a", { href: "openapi.yaml" }, "API document");
  link.addEventListener("click", async (event) => {
    if (token === null) return;
    event.preventDefault();
    const answer = await get("openapi.yaml");
    const saving = el("a", { href: URL.createObjectURL(await answer.blob()), download: "openapi.yaml" });
    if (answer.ok) saving.click();
    setTimeout(() => URL.revokeObjectURL(saving.href), POLL_MS);
  });
  return link;
}

async function poll() {
  clearTimeout(timer);
  if (asking || locked || document.hidden) return;
  asking = true;
  try {
    const status = await ask();
    showHeard();
    if (status === null) {
      askForToken();
      return;
    }
    byId("ask").hidden = true;
    show(status);
  } catch (error) {
    showOutage(error.name === "TimeoutError" ? `: it has not answered for ${ANSWER_MS / 1000} s` : error.message.startsWith("it ") ? `: ${error.message}` : "");
  } finally {
    asking = false;
  }
  timer = setTimeout(poll, POLL_MS);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  // What is not ASCII can be no header, and no token.
  token = byId("token").value.trim().replace(/[^\x21-\x7e]/g, "?");
  byId("token").value = "";
  locked = false;
  poll();
});
document.addEventListener("visibilitychange", poll);

if (SHARED) byId("receipt-section").remove();
if ("token" in document.body.dataset) askForToken();
else poll();
