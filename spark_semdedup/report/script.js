"use strict";
// The page can be read without this: it only filters lists, and opens what a link leads to.
(() => {
  const form = document.querySelector("form.filter");
  const [search, state, band, matches] = ["search", "state", "band", "matches"].map((id) => document.getElementById(id));
  const items = [...document.querySelectorAll(".filtered")].map((element) => ({
    element, text: element.textContent.toLowerCase(), state: element.dataset.state, band: element.dataset.band,
  }));

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let visible = 0;
    for (const item of items) {
      const fits = words.every((word) => item.text.includes(word)) &&
        (!state.value || item.state === state.value) && (!band.value || item.band === band.value);
      item.element.toggleAttribute("data-hidden", !fits);
      visible += fits;
    }
    const active = Boolean(words.length || state.value || band.value);
    for (const block of document.querySelectorAll("details.band")) {
      const fits = block.querySelector(".filtered:not([data-hidden])") !== null;
      block.toggleAttribute("data-hidden", !fits);
      if (active && fits) block.open = true;
    }
    matches.textContent = active ? `${visible} of ${items.length} groups and pairs` : `${items.length} groups and pairs`;
  }

  function openTarget() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.scrollIntoView({ block: "nearest" });
      target.querySelector("summary").focus({ preventScroll: true });
    }
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  for (const control of [search, state, band]) control.addEventListener("input", filter);
  window.addEventListener("hashchange", openTarget);
  form.hidden = false;
  filter();
  openTarget();
})();
