/* What is wider than its place says so: it fades at the side where more of it is, the keyboard
   reaches it, and a line below a table tells it. Without scripts it scrolls all the same. */
"use strict";
(() => {
  const PLACES = ".pst-scrollable-table-container, .cell_output .output.text_html, .bd-article figure";
  const LONG = 24; // letters, from which a cell is prose that a phone must not squeeze

  const look = (place) => {
    const hidden = place.scrollWidth - place.clientWidth;
    const scrolls = hidden > 1;
    place.classList.toggle("scrolls", scrolls);
    place.classList.toggle("more-right", scrolls && place.scrollLeft < hidden - 1);
    place.classList.toggle("more-left", scrolls && place.scrollLeft > 1);
    if (scrolls) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  };

  const begin = () => {
    for (const cell of document.querySelectorAll(".bd-article td, .bd-article th")) {
      cell.classList.toggle("long", cell.textContent.trim().length > LONG);
    }
    const places = [...document.querySelectorAll(PLACES)];
    // A table grows without its place when a font arrives or a fold opens: both are watched.
    const watcher = new ResizeObserver((entries) => {
      for (const place of new Set(entries.map((one) => one.target.closest(PLACES)))) look(place);
    });
    for (const place of places) {
      place.addEventListener("scroll", () => look(place), { passive: true });
      for (const image of place.querySelectorAll("img")) {
        image.addEventListener("load", () => look(place));
      }
      for (const one of [place, ...place.children]) watcher.observe(one);
    }
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
