// What the theme leaves out for keyboards and screen readers: a name for its search, and focus for what scrolls.
window.addEventListener("load", () => {
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search")
  for (const box of document.querySelectorAll(".board, .output, pre > code, .md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
  }
})
