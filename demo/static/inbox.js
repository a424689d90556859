// Asks once a second for what has arrived and puts it into the page; what stands there already is left alone, so that
// nobody loses their place and no e-mail is loaded twice.
"use strict";

const PERIOD_MS = 1000;

function mergeList(shown, fresh) {
  const kept = new Set();
  // From the oldest to the newest: each new one goes to the top.
  for (const item of Array.from(fresh.children).reverse()) {
    kept.add(item.id);
    const present = document.getElementById(item.id);
    if (present === null) {
      item.classList.add("new");
      shown.prepend(item);
    } else if (present.dataset.status !== item.dataset.status) {
      present.querySelector(".status").textContent = item.dataset.status;
      present.dataset.status = item.dataset.status;
    }
  }
  for (const item of Array.from(shown.children)) {
    if (!kept.has(item.id)) item.remove();
  }
}

function tell(sentence) {
  const summary = document.getElementById("summary");
  if (summary.textContent !== sentence) summary.textContent = sentence;
}

async function refresh() {
  try {
    const answer = await fetch("/messages");
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["texts", "emails"]) {
      mergeList(document.getElementById(id), fresh.getElementById(id));
    }
    tell(fresh.getElementById("summary").textContent);
  } catch {
    tell("The demonstration has ended; what arrived stays here until you leave.");
  }
  setTimeout(refresh, PERIOD_MS);
}

setTimeout(refresh, PERIOD_MS);
