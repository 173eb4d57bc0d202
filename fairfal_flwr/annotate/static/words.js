// What the page says, in sentences.

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

export function paceText({ "per-minute": perMinute, "for-me": open }) {
  if (!perMinute) return "";
  const left = open ? `, ${duration((60 * open) / perMinute)} left` : "";
  return `${perMinute.toFixed(perMinute < 10 ? 1 : 0)} per minute${left}`;
}

// What the campaign waits for.
export function waitsFor({ progress, others }) {
  const { cycle, closed } = progress;
  const parts = [];
  if (!cycle) return "";
  if (cycle <= closed) {
    parts.push(`The campaign trains on your labels of cycle ${cycle}.`);
    if (progress["open-in-all"]) {
      parts.push(`What you answer now counts from cycle ${cycle + 1} on.`);
    }
  } else if (progress.open) {
    parts.push(`The campaign waits for your labels of cycle ${cycle}: ${progress.open} open here.`);
  } else parts.push(`Cycle ${cycle} is answered here.`);
  if (others && others.cycle === cycle && cycle > closed) {
    const elsewhere = others.sites - (progress.open ? 1 : 0);
    if (elsewhere > 0) parts.push(`${count(elsewhere, "other site")} still answering.`);
    if (others.seconds !== null) parts.push(`At most ${duration(others.seconds)} until it goes on with what is there.`);
  }
  return parts.join(" ");
}

export function waitingTitle({ progress }) {
  if (!progress || !progress.cycle) return "No questions yet";
  if (progress["for-me"]) return "Others are at the last ones";
  if (progress.open && progress.cycle > progress.closed) return "You have answered all that you can";
  return "All is answered. Thank you!";
}

export function waitingText({ progress, people, desks, desk }) {
  const elsewhere = desks.filter(({ key, open }) => open && key !== desk).map(({ title, open }) => `${title}: ${open}`);
  if (elsewhere.length) return `Open for you elsewhere, to be chosen above: ${elsewhere.join("; ")}.`;
  if (!progress || !progress.cycle) return "The first ones come when the campaign asks. This page goes on by itself.";
  if (progress["for-me"]) return `${count(progress["for-me"], "question")} open, each on somebody's screen. If they leave one, it comes here by itself.`;
  if (people > 1 && progress["open-in-all"]) return `${count(progress["open-in-all"], "question")} still need another person's answer. This page goes on by itself.`;
  return "This page goes on by itself when new questions come.";
}

export function ago(time) {
  const seconds = (Date.now() - new Date(time)) / 1000;
  return seconds < 5 ? "just now" : `${duration(seconds)} ago`;
}
