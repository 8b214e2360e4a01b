// Light and dark: the system's choice until the button is pressed.
const root = document.documentElement;
const button = document.getElementById("theme");
const remembered = (() => {
  try { return localStorage.getItem("theme"); } catch { return null; }
})();
if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
button.hidden = false;
button.addEventListener("click", () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private browsing */ }
});
