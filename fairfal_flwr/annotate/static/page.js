// The page: one question after the other, or many at once.

import { Outbox, call, image } from "./api.js";
import { Classes, labelOf } from "./classes.js";
import { at, element } from "./element.js";
import { Grid } from "./grid.js";
import { Viewer } from "./viewer.js";
import { ago, count, paceText, waitingText, waitingTitle, waitsFor } from "./words.js";

const POLL_WAITING = 2500;
const POLL_WORKING = 15000;

const page = {
  me: document.querySelector('meta[name="annotator"]').content,
  desk: sessionStorage.desk || null,
  names: [],
  state: null, // what the server said last
  queue: [], // open questions in hand, the present one first
  trail: [], // answered here, the latest last
  older: undefined, // before which row of the ledger the trail's past is; null: no more
  back: 0, // how far the person went back on the trail
  current: null,
  gridOpen: false,
  undoing: null, // a promise
  stale: [], // what somebody else answered meanwhile, to be told
  turn: 0, // of what the person did; what the server said before that is out of date
  settled: 0, // the turn after which the server spoke last
  error: "",
  hint: localStorage.hint !== "off",
  keys: localStorage.keys !== "off",
};

const viewer = new Viewer(at("stage"), at("image"), at("brightness"), at("contrast"));
const classes = new Classes(at("classes"), at("search"), answer);
const gridClasses = new Classes(at("grid-classes"), at("grid-search"), answerSelected);
const grid = new Grid({ onChange: drawGridTitle });
let outbox = null;
let poll = 0;

const nameOf = (label) => (label === null ? "can't tell" : page.names[label] ?? `class ${label}`);
const say = (text) => { at("status").textContent = text; };

// --- what the server says -------------------------------------------------------------

async function refresh() {
  clearTimeout(poll);
  try {
    const showing = page.gridOpen ? grid.ids : page.current ? [page.current.id] : [];
    const { turn } = page;
    const state = await call("state", { desk: page.desk, showing });
    if (turn === page.turn) take(state);
    if (!outbox.size) trouble(null);
    outbox.send();
  } catch (error) {
    trouble(error);
  }
  schedule();
}

function schedule() {
  clearTimeout(poll);
  const idle = !page.current || !at("alert").hidden;
  poll = setTimeout(refresh, idle ? POLL_WAITING : POLL_WORKING);
}

function take(state) {
  page.state = state;
  page.settled = page.turn;
  listDesks(state);
  if (!state.desk) return draw();
  if (page.desk !== state.desk) leaveFor(state.desk);
  page.names = state.classes;
  classes.show(page.names);
  gridClasses.show(page.names);
  Object.assign(grid, { desk: page.desk, names: page.names });
  page.queue = state.queue.filter((question) => !outbox.has(question.id));
  if (!page.back) present(keepPresent());
  prefetch();
  moveToAnotherDesk(state);
  draw();
}

// The question on the screen stays there as long as it is open for this person.
function keepPresent() {
  const same = page.queue.find((question) => question.id === page.current?.id);
  return same ?? page.queue[0] ?? null;
}

function leaveFor(desk) {
  page.desk = sessionStorage.desk = desk;
  page.trail = [];
  page.older = undefined;
  page.back = 0;
  page.current = null;
  page.queue = [];
}

function moveToAnotherDesk({ desks, queue }) {
  if (queue.length || page.back || desks.some(({ key }) => key === page.desk)) return;
  if (desks.length) chooseDesk(desks[0].key);
}

function chooseDesk(key) {
  leaveFor(key);
  refresh();
}

function listDesks({ desks, desk }) {
  const several = desks.length > 1;
  at("desk").hidden = !several;
  at("desk-title").hidden = several;
  at("desk-title").textContent = desks.find(({ key }) => key === desk)?.title ?? "";
  const known = [...at("desk").options].map((option) => option.value).join();
  if (known !== desks.map(({ key }) => key).join()) {
    at("desk").replaceChildren(...desks.map(({ key }) => element("option", { value: key })));
  }
  desks.forEach(({ title, open }, place) => {
    at("desk").options[place].textContent = `${title} (${open} open)`;
  });
  if (desk) at("desk").value = desk;
}

function prefetch() {
  for (const question of page.queue) image(page.desk, question.id);
}

function trouble(error) {
  if (error?.status === 412) location.reload(); // its session is over, another one here
  page.error = error?.message ?? "";
  drawAlert();
}

function drawAlert() {
  const kept = outbox?.size ?? 0;
  const waiting = kept ? ` ${count(kept, "answer")} kept here, sent again by itself.` : "";
  at("alert").hidden = !page.error;
  at("alert-text").textContent = page.error ? page.error + waiting : "";
}

// --- one question ---------------------------------------------------------------------

function present(question) {
  const same = question && question.id === page.current?.id;
  page.current = question;
  if (question && !same) showImage(question);
  if (question) return;
  at("image").hidden = true;
  at("no-image").hidden = false;
  at("no-image").textContent = "The next one is on its way.";
}

async function showImage({ id }) {
  at("no-image").hidden = true;
  const { url, error } = await image(page.desk, id);
  if (page.current?.id !== id) return;
  at("image").hidden = !url;
  at("no-image").hidden = Boolean(url);
  if (url) at("image").src = url;
  else at("no-image").textContent = `${error} You can set it aside with “Can't tell”, or skip it.`;
}

function answer(label) {
  // Who takes back and answers at once means the question that comes back.
  if (page.undoing) return page.undoing.then(() => answer(label));
  const question = page.current;
  if (!question) return undefined;
  page.turn += 1;
  const items = [{ id: question.id, seen: question.seen }];
  page.queue = page.queue.filter(({ id }) => id !== question.id);
  page.trail = page.trail.filter(({ id }) => id !== question.id);
  page.trail.push({ ...question, mine: { label } });
  page.back = 0;
  page.current = null;
  const next = page.queue[0] ?? null;
  present(next);
  draw();
  tell(label, next);
  outbox.put({ desk: page.desk, label, items });
  return drawAlert();
}

function tell(label, next) {
  const what = label === null ? "Set aside: can't tell." : `Labeled ${nameOf(label)}.`;
  say(`${what} ${next ? `Next: ${describe(next)}` : "No further question in hand."}`);
}

function describe(question) {
  const looks = page.hint && question.looks ? ` ${question.looks}.` : "";
  return `${question.asked}.${looks}`;
}

function sent(entry, reply) {
  page.turn += 1;
  if (reply.stale.length) {
    page.stale.push({ questions: reply.stale, label: entry.label });
    showStale();
  }
  if (reply.late) say("Saved. Its cycle is closed: it counts from the next cycle on.");
  refresh();
}

function skip() {
  const question = page.current;
  if (!question || page.back) return goForward();
  page.turn += 1;
  page.queue = [...page.queue.filter(({ id }) => id !== question.id), question];
  page.current = null;
  present(page.queue[0]);
  draw();
  say(`Skipped; it comes again at the end. Next: ${describe(page.current)}`);
  return call("skip", { desk: page.desk, id: question.id }).then(refresh, trouble);
}

function undo() {
  page.undoing ??= takeBack().finally(() => { page.undoing = null; });
  return page.undoing.then(refresh);
}

async function takeBack() {
  page.turn += 1;
  const unsent = outbox.takeBackLast();
  if (unsent) {
    const ids = new Set(unsent.items.map((item) => item.id));
    takenBack(page.trail.filter(({ id }) => ids.has(id)));
    return;
  }
  await outbox.settled();
  try {
    const { questions } = await call("undo", { desk: page.desk });
    page.turn += 1;
    takenBack(questions);
  } catch (error) {
    say(error.message);
    if (error.status !== 409) trouble(error);
  }
}

function takenBack(questions) {
  if (!questions.length) return say("There is nothing to take back.");
  const ids = new Set(questions.map(({ id }) => id));
  const others = (list) => list.filter(({ id }) => !ids.has(id));
  page.trail = others(page.trail);
  page.back = 0;
  page.queue = [...questions.map((question) => ({ ...question, mine: null })), ...others(page.queue)];
  page.current = null;
  if (page.gridOpen) setGrid(false);
  present(page.queue[0]);
  draw();
  const what = questions.length > 1 ? `${questions.length} answers taken back.` : "Taken back.";
  return say(`${what} Answer again: ${describe(page.current)}`);
}

// --- back and forth -------------------------------------------------------------------

async function goBack() {
  if (page.back === page.trail.length && !(await lengthenTrail())) return say("This is the first one.");
  page.back += 1;
  return lookBack();
}

async function lengthenTrail() {
  while (page.older !== null) {
    const { items, older } = await call("history", { desk: page.desk, whose: "mine", before: page.older });
    page.older = older;
    const known = new Set(page.trail.map(({ id }) => id));
    const added = items.filter(({ id }) => !known.has(id)).reverse();
    page.trail = [...added, ...page.trail];
    if (added.length) return true;
  }
  return false;
}

// Answering anew needs what was said about a question since.
async function lookBack() {
  await outbox.settled();
  const fresh = await call("question", { desk: page.desk, id: page.trail.at(-page.back).id });
  present(fresh);
  draw();
  say(`Back at an answered one: ${fresh.decision?.name ?? nameOf(fresh.mine?.label ?? null)}. Answer anew or go forward.`);
}

function goForward() {
  if (!page.back) return undefined;
  page.back -= 1;
  if (page.back) return lookBack();
  page.current = null;
  present(page.queue[0] ?? null);
  draw();
  return say(page.current ? `Forward: ${describe(page.current)}` : "No further question in hand.");
}

function lookAt(question) {
  if (page.gridOpen) setGrid(false);
  page.trail = page.trail.filter(({ id }) => id !== question.id);
  page.trail.push(question);
  page.back = 1;
  present(question);
  draw();
}

async function openHistory(whose = "mine") {
  await outbox.settled();
  at("history").replaceChildren();
  await lengthenHistory(whose);
  at("history-mine").setAttribute("aria-pressed", whose === "mine");
  at("history-all").setAttribute("aria-pressed", whose === "all");
  if (!at("history").children.length) at("history").append(element("li", {}, "Nothing yet."));
  if (!at("history-dialog").open) at("history-dialog").showModal();
}

async function lengthenHistory(whose, before) {
  const { items, older } = await call("history", { desk: page.desk, whose, before });
  const entries = items.map(historyEntry);
  at("history").append(...entries);
  if (before) entries[0]?.querySelector("button").focus();
  at("history-older").hidden = older === null;
  at("history-older").onclick = () => lengthenHistory(whose, older).catch(trouble);
}

function historyEntry(question) {
  const picture = element("img", { alt: "" });
  image(page.desk, question.id, { thumb: true }).then(({ url }) => url && (picture.src = url));
  const words = question.decision?.name ?? `${nameOf(question.mine.label)} (one vote)`;
  const by = question.decision?.by ?? page.me;
  const text = element("span", {}, words, element("small", {}, `${by}, ${ago(question.at)}, cycle ${question.cycle}`));
  const button = element("button", { type: "button" }, picture, text);
  button.addEventListener("click", () => {
    at("history-dialog").close();
    lookAt(question);
  });
  return element("li", {}, button);
}

// --- somebody was faster --------------------------------------------------------------

function showStale() {
  if (at("stale-dialog").open || !page.stale.length) return;
  const { questions, label } = page.stale.shift();
  const ids = new Set(questions.map(({ id }) => id));
  page.trail = page.trail.filter(({ id }) => !ids.has(id));
  at("stale-text").textContent = questions.length === 1
    ? `${saidMeanwhile(questions[0])} You said «${nameOf(label)}», which was not written.`
    : `${questions.length} of these were answered meanwhile, so «${nameOf(label)}» was not written for them.`;
  at("stale-list").hidden = questions.length === 1;
  at("stale-list").replaceChildren(...questions.map((q) => element("li", {}, saidMeanwhile(q))));
  at("stale-change").textContent = `Change ${questions.length === 1 ? "it" : "all of them"} to «${nameOf(label)}»`;
  at("stale-change").onclick = () => {
    const items = questions.map(({ id, seen }) => ({ id, seen }));
    outbox.put({ desk: page.desk, label, items });
    at("stale-dialog").close();
  };
  at("stale-dialog").showModal();
}

function saidMeanwhile({ decision, votes }) {
  if (!decision && votes.length) return `${bothSay(votes)}.`;
  if (!decision) return "Somebody took an answer back meanwhile.";
  return `${decision.by} said «${decision.name}» (${ago(decision.at)}).`;
}

// --- the grid -------------------------------------------------------------------------

function toggleGrid() {
  return page.gridOpen ? closeGrid() : openGrid();
}

async function openGrid() {
  await outbox.settled();
  await grid.open();
  if (!grid.items.length) return say("No question is open for the grid.");
  goToQueue();
  setGrid(true);
  at("tiles").firstElementChild.focus();
  return say(`Grid: ${count(grid.items.length, "image")} that look alike, all selected.`);
}

function closeGrid() {
  goToQueue();
  setGrid(false);
  return refresh();
}

function setGrid(open) {
  page.gridOpen = open;
  at("to-grid").setAttribute("aria-pressed", open);
  draw();
}

function goToQueue() {
  if (page.back) present(page.queue[0] ?? null);
  page.back = 0;
}

function drawGridTitle() {
  gridClasses.mark({ guess: page.hint && grid.group !== "" ? Number(grid.group) : null });
  at("grid-title").textContent = `Label ${count(grid.selected.length, "selected image")} as`;
}

async function answerSelected(label) {
  const { selected } = grid;
  if (!selected.length) return say("Nothing is selected.");
  page.turn += 1;
  const items = selected.map(({ id, seen }) => ({ id, seen }));
  const done = new Set(items.map(({ id }) => id));
  page.trail.push(...selected.map((question) => ({ ...question, mine: { label } })));
  page.queue = page.queue.filter(({ id }) => !done.has(id));
  if (done.has(page.current?.id)) page.current = null;
  grid.drop(done); // a key that is pressed twice says nothing about what comes next
  say(`${count(items.length, "image")} labeled ${nameOf(label)}.`);
  await outbox.put({ desk: page.desk, label, items });
  await grid.reopen();
  if (!grid.items.length) return closeGrid();
  draw();
  return at("tiles").firstElementChild?.focus();
}

// --- drawing --------------------------------------------------------------------------

function draw() {
  const { state, current } = page;
  if (!state) return;
  const showGrid = page.gridOpen && grid.items.length > 0;
  const settled = page.settled === page.turn && !outbox.size;
  if (!showGrid && !current && !settled) return drawAlert();
  show(showGrid ? "grid" : current ? "single" : "waiting");
  drawProgress(state);
  if (showGrid) return undefined;
  if (current) return drawQuestion(current);
  return drawWaiting(state);
}

// The focus of a view that goes away moves on to the one that comes.
const VIEWS = { single: "stage", grid: "grid-title", waiting: "waiting-title" };

function show(view) {
  if (!at(view).hidden) return;
  const lost = Object.keys(VIEWS).some((other) => at(other).contains(document.activeElement));
  for (const other of Object.keys(VIEWS)) at(other).hidden = other !== view;
  if (lost) at(VIEWS[view]).focus({ preventScroll: true });
}

function drawProgress({ progress, ...rest }) {
  if (!progress) return;
  at("progress").max = Math.max(1, progress.asked);
  at("progress").value = progress.answered;
  at("progress-text").textContent = `${progress.answered} of ${progress.asked} in cycle ${progress.cycle}`;
  at("pace").textContent = paceText(progress);
  at("word").textContent = waitsFor({ progress, ...rest });
}

function drawQuestion(question) {
  const { suggestion } = question;
  const shown = page.hint && suggestion !== null;
  at("image").alt = `Image to label: ${placeOf(question)}`;
  at("why").textContent = [question.asked, question.score].filter(Boolean).join("; ");
  at("hint").hidden = suggestion === null;
  at("hint").textContent = shown ? `${question.looks}.` : "What the model takes it for is hidden.";
  at("toggle-hint").setAttribute("aria-pressed", page.hint);
  const said = question.decision ?? question.mine;
  classes.mark({ guess: shown ? suggestion : null, said: said ? said.label : null });
  drawAgain(question);
  drawVotes(question);
  at("skip").firstChild.textContent = page.back ? "Forward " : "Skip ";
  drawNeighbors();
}

function drawAgain({ decision, mine, late }) {
  const parts = [];
  if (decision) parts.push(`Answered: «${decision.name}» by ${decision.by}, ${ago(decision.at)}. A new answer replaces it.`);
  else if (mine) parts.push(`You said «${nameOf(mine.label)}».`);
  if (late) parts.push("Its cycle is closed: an answer counts from the next cycle on.");
  at("again").hidden = !parts.length;
  at("again").textContent = parts.join(" ");
}

function drawVotes({ votes, decision, mine }) {
  const disagree = !decision && !mine && votes.length > 1;
  at("votes").hidden = !disagree;
  if (!disagree) return;
  at("votes").textContent = `Two people disagree: ${bothSay(votes)}. Your answer decides.`;
}

const bothSay = (votes) => votes.map(({ by, label }) => `${by} says «${nameOf(label)}»`).join(", ");

function drawNeighbors() {
  const before = page.trail.slice(-3).filter(({ id }) => id !== page.current.id);
  const after = page.queue.filter(({ id }) => id !== page.current.id).slice(0, 4);
  const shown = [
    ...before.map((question) => ({ question, kind: "done" })),
    { question: page.current, kind: "now" },
    ...after.map((question) => ({ question, kind: "next" })),
  ];
  const drawn = JSON.stringify(shown.map(({ question, kind }) => [question.id, question.mine, kind]));
  if (drawn === page.neighborsDrawn) return; // the focus stays where it is
  page.neighborsDrawn = drawn;
  const hadFocus = at("neighbors").contains(document.activeElement);
  at("neighbors").replaceChildren(...shown.map(neighbor));
  if (hadFocus) at("neighbors").querySelector("[aria-current]").focus();
}

function neighbor({ question, kind }) {
  const picture = element("img", { alt: "" });
  image(page.desk, question.id, { thumb: true }).then(({ url }) => url && (picture.src = url));
  const said = question.mine ? nameOf(question.mine.label) : "";
  const place = placeOf(question);
  const words = { done: `${place}, answered: ${said}`, now: `${place}, this one`, next: `${place}, comes later` }[kind];
  const button = element("button", { type: "button", "aria-label": words }, picture);
  if (kind === "now") button.setAttribute("aria-current", "true");
  if (kind === "done") {
    button.append(element("span", {}, said));
    button.addEventListener("click", () => backTo(question.id).catch(trouble));
  }
  if (kind === "next") button.addEventListener("click", () => jumpTo(question));
  return element("li", { class: kind }, button);
}

const placeOf = ({ place, cycle }) => `${place} in cycle ${cycle}`;

function backTo(id) {
  page.back = page.trail.length - page.trail.findIndex((question) => question.id === id);
  return lookBack();
}

function jumpTo(question) {
  page.queue = [question, ...page.queue.filter(({ id }) => id !== question.id)];
  page.back = 0;
  present(question);
  draw();
}

function drawWaiting(state) {
  const title = waitingTitle(state);
  if (at("waiting-title").textContent !== title) say(title);
  at("waiting-title").textContent = title;
  at("waiting-text").textContent = waitingText(state);
  at("waiting-undo").hidden = !state.progress?.mine;
}

// --- keys and buttons -----------------------------------------------------------------

const COMMANDS = {
  s: skip,
  x: () => (page.gridOpen ? answerSelected(null) : answer(null)),
  u: undo,
  h: toggleHint,
  g: toggleGrid,
  l: () => openHistory(),
  "?": () => at("help-dialog").showModal(),
  "/": () => (page.gridOpen ? gridClasses : classes).find(),
  "+": () => viewer.by(1.3),
  "=": () => viewer.by(1.3),
  "-": () => viewer.by(1 / 1.3),
  0: () => viewer.fit(),
  "[": () => viewer.light({ brightness: -10 }),
  "]": () => viewer.light({ brightness: 10 }),
  ",": () => viewer.light({ contrast: -10 }),
  ".": () => viewer.light({ contrast: 10 }),
  ArrowLeft: goBack,
  ArrowRight: goForward,
};
const IN_GRID = { a: () => grid.all(true), n: () => grid.all(false) };
const NOT_IN_GRID = ["s", "ArrowLeft", "ArrowRight"];

function pressed(event) {
  const typing = event.target.matches('input:not([type="range"]), select, textarea');
  const undoes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if (typing || document.querySelector("dialog[open]")) return;
  if (!undoes && (event.ctrlKey || event.metaKey || event.altKey)) return;
  const slides = event.target.matches('input[type="range"]') && event.key.startsWith("Arrow");
  if (slides || (!page.keys && !undoes && event.key !== "?")) return;
  const run = undoes ? undo : commandFor(event.key);
  if (!run || event.repeat) return;
  event.preventDefault();
  Promise.resolve(run()).catch(trouble);
}

function commandFor(key) {
  const label = labelOf(key, page.names);
  if (label !== null) return () => (page.gridOpen ? answerSelected(label) : answer(label));
  if (page.gridOpen && NOT_IN_GRID.includes(key)) return null;
  return (page.gridOpen && IN_GRID[key]) || COMMANDS[key] || null;
}

function toggleHint() {
  page.hint = !page.hint;
  localStorage.hint = page.hint ? "on" : "off";
  draw();
  say(page.hint ? "Hints are shown." : "Hints are hidden.");
}

function clicks(id, run) {
  at(id).addEventListener("click", () => Promise.resolve(run()).catch(trouble));
}

function connect() {
  document.addEventListener("keydown", pressed);
  clicks("skip", skip);
  clicks("cannot", () => answer(null));
  clicks("undo", undo);
  clicks("waiting-undo", undo);
  clicks("toggle-hint", toggleHint);
  clicks("to-grid", toggleGrid);
  clicks("back", toggleGrid);
  clicks("grid-cannot", () => answerSelected(null));
  clicks("to-history", () => openHistory());
  clicks("history-mine", () => openHistory("mine"));
  clicks("history-all", () => openHistory("all"));
  clicks("to-help", COMMANDS["?"]);
  clicks("stale-keep", () => at("stale-dialog").close());
  at("stale-dialog").addEventListener("close", showStale);
  clicks("zoom-in", COMMANDS["+"]);
  clicks("zoom-out", COMMANDS["-"]);
  clicks("zoom-fit", COMMANDS[0]);
  clicks("to-light", () => {
    const light = at("to-light").parentElement.classList.toggle("light");
    at("to-light").setAttribute("aria-expanded", light);
  });
  clicks("alert-retry", refresh);
  at("desk").addEventListener("change", (event) => chooseDesk(event.target.value));
  for (const button of document.querySelectorAll("dialog .close")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  at("keys-on").checked = page.keys;
  at("keys-on").addEventListener("change", (event) => {
    page.keys = event.target.checked;
    localStorage.keys = page.keys ? "on" : "off";
  });
  window.addEventListener("beforeunload", (event) => outbox?.size && event.preventDefault());
  window.addEventListener("pageshow", (event) => event.persisted && location.reload());
}

// --- the start ------------------------------------------------------------------------

async function askName() {
  at("name").value = localStorage.annotator ?? "";
  at("name-dialog").addEventListener("cancel", (event) => event.preventDefault());
  at("name-dialog").showModal();
  await new Promise((done) => {
    at("name-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        page.me = (await call("name", { name: at("name").value })).name;
        done();
      } catch (error) {
        at("name-error").textContent = error.message;
      }
    });
  });
  at("name-dialog").close();
}

async function start() {
  history.replaceState(null, "", "/"); // the token is used; nobody needs it any more
  if (!page.me) await askName();
  localStorage.annotator = page.me;
  outbox = new Outbox({ by: page.me, onSent: sent, onTrouble: trouble });
  connect();
  await refresh();
  at("stage").focus({ preventScroll: true });
}

start();
