// What goes over the wire: calls, images, and answers that are never lost.

const csrf = document.querySelector('meta[name="csrf"]').content;

export class CallError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function call(name, sent) {
  let response;
  try {
    response = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
      body: JSON.stringify(sent),
    });
  } catch {
    throw new CallError(0, "The server does not answer.");
  }
  const said = await response.json().catch(() => ({ error: "The server failed." }));
  if (!response.ok) throw new CallError(response.status, said.error);
  return said;
}

// Images, kept so that the next one is there at once. A promise of an address, or of why
// there is none.
const MOST_IMAGES = 150;
const images = new Map();

export function image(desk, id, { thumb = false } = {}) {
  const address = `/image/${desk}/${id}${thumb ? "?thumb" : ""}`;
  if (!images.has(address)) {
    images.set(address, load(address));
    if (images.size > MOST_IMAGES) forget(images.keys().next().value);
  }
  return images.get(address);
}

function forget(address) {
  const promise = images.get(address);
  images.delete(address);
  // What still shows it has decoded it long since.
  promise.then(({ url }) => url && URL.revokeObjectURL(url));
}

async function load(address) {
  try {
    const response = await fetch(address);
    if (response.ok) return { url: URL.createObjectURL(await response.blob()) };
    const { error } = await response.json();
    if (response.status !== 422) images.delete(address);
    return { error };
  } catch {
    images.delete(address);
    return { error: "The server does not answer; the image is still to come." };
  }
}

// Answers on their way. They lie in the browser's storage until the server has them on
// its disk, so neither a reload nor a server that went away loses one. Each tab has a
// place of its own; what a closed one left behind is taken over. Sent twice is no harm:
// the server knows an answer that it has.
const tab = (sessionStorage.tab ||= `${Date.now()}-${Math.random()}`);
const PLACE = "answers-";
const HOPELESS = [400, 404, 413, 415];

export class Outbox {
  constructor({ by, onSent, onTrouble }) {
    this.by = by;
    this.onSent = onSent;
    this.onTrouble = onTrouble;
    this.present = null; // a promise while answers are on their way
    this.failures = 0;
    this.timer = 0;
    this.kept = takeOver(by);
  }

  get size() {
    return this.kept.reduce((sum, entry) => sum + entry.items.length, 0);
  }

  has(id) {
    return this.kept.some(({ items }) => items.some((item) => item.id === id));
  }

  put(entry) {
    this.kept.push({ ...entry, by: this.by });
    write(this.kept);
    return this.send();
  }

  takeBackLast() {
    if (this.present || !this.kept.length) return null;
    const entry = this.kept.pop();
    write(this.kept);
    return entry;
  }

  // Waits for an answer that is on its way.
  settled() {
    return this.present ?? Promise.resolve();
  }

  send() {
    this.present ??= this.sendAll().finally(() => { this.present = null; });
    return this.present;
  }

  async sendAll() {
    clearTimeout(this.timer);
    try {
      while (this.kept.length) {
        const entry = this.kept[0];
        const reply = await call("answer", entry);
        this.drop(entry);
        this.failures = 0;
        this.onTrouble(null);
        this.onSent(entry, reply);
      }
    } catch (error) {
      this.refused(error);
    }
  }

  refused(error) {
    const hopeless = HOPELESS.includes(error.status);
    if (hopeless) this.drop(this.kept[0]);
    this.onTrouble(error);
    this.failures += 1;
    const wait = hopeless ? 0 : Math.min(10, 2 ** (this.failures - 1)) * 1000;
    this.timer = setTimeout(() => this.send(), wait);
  }

  drop(entry) {
    this.kept = this.kept.filter((other) => other !== entry);
    write(this.kept);
  }
}

function takeOver(by) {
  const places = Object.keys(localStorage).filter((key) => key.startsWith(PLACE));
  const entries = places.flatMap((place) => read(place)).filter((entry) => entry.by === by);
  for (const place of places) {
    if (read(place).every((entry) => entry.by === by)) localStorage.removeItem(place);
  }
  write(entries);
  return entries;
}

function read(place) {
  try {
    return JSON.parse(localStorage.getItem(place)) || [];
  } catch {
    return [];
  }
}

function write(entries) {
  if (entries.length) localStorage.setItem(PLACE + tab, JSON.stringify(entries));
  else localStorage.removeItem(PLACE + tab);
}
