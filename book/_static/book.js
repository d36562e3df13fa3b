// The widgets' scripts look for each other, and for their icons, among the book's own.
window.require = { baseUrl: new URL("vendor/", document.currentScript.src).href };

// A slider has no accessible name, and a formula that is wider than the page cannot be scrolled by keyboard.
function mend() {
  for (const slider of document.querySelectorAll(".widget-slider")) {
    const name = slider.querySelector(".widget-label")?.textContent || "position";
    for (const part of slider.querySelectorAll("[role=slider], .widget-readout")) {
      if (!part.hasAttribute("aria-label")) part.setAttribute("aria-label", name);
    }
  }
  for (const formula of document.querySelectorAll("mjx-container[display]")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
  }
}

// The theme lets the first button of its kind open a drawer, on a phone one in a bar that is not shown (see book.css).
// Its scripts run once the page is interactive, after this.
document.addEventListener("readystatechange", () => {
  for (const button of document.querySelectorAll(".bd-header .sidebar-toggle")) button.remove();
});

document.addEventListener("DOMContentLoaded", () => {
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  window.addEventListener("resize", mend);
  // The widgets set formulas in labels as MathJax 2 did.
  if (window.MathJax) {
    MathJax.Hub = { Queue: ([, , element]) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element])) };
  }
});
