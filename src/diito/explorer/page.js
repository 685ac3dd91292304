// Runs once in each part of the page. `element` is the part, `trigger` sends an event to the server.
// A press of whatever has a data-act sends it; tokens are dragged over; arrows move between neighbours.
const send = (act) => trigger("act", act);
const read = (node) => JSON.parse(node.dataset.act);
let dragged = null;
let focused = null;

const tokens = () => [...element.querySelectorAll("button.token[data-place]")];
const mark = (first, last) => {
  const [low, high] = [Math.min(first, last), Math.max(first, last)];
  for (const token of tokens()) {
    if (read(token).kind === "swap") {
      const place = Number(token.dataset.place);
      token.classList.toggle("swapped", low <= place && place <= high);
    }
  }
};
const isSwap = (node) => node && node.dataset.place !== undefined && read(node).kind === "swap";
const under = (event) => {
  const node = document.elementFromPoint(event.clientX, event.clientY);
  const button = node && node.closest("button.token");
  return button && element.contains(button) && isSwap(button) ? button : null;
};

element.addEventListener("pointerdown", (event) => {
  const button = event.target.closest("button.token");
  if (!isSwap(button) || event.button !== 0) return;
  dragged = { first: Number(button.dataset.place), last: Number(button.dataset.place) };
  mark(dragged.first, dragged.last);
});
const drag = (event) => {
  const button = dragged && under(event);
  if (!button) return;
  dragged.last = Number(button.dataset.place);
  mark(dragged.first, dragged.last);
};
element.addEventListener("pointermove", drag);
window.addEventListener("pointerup", (event) => {
  if (!dragged) return;
  drag(event);
  send({ kind: "swap", first: dragged.first, last: dragged.last });
  dragged = null;
});
window.addEventListener("pointercancel", () => { dragged = null; });

element.addEventListener("click", (event) => {
  const save = event.target.closest("[data-save]");
  if (save) return download(save.dataset.save);
  const button = event.target.closest("button[data-act]");
  if (!button) return;
  focused = button.dataset.key;
  // A pointer's press of a token was sent when it was let go; the keyboard has no such detail.
  if (isSwap(button) && event.detail > 0) return;
  send(read(button));
});
element.addEventListener("change", (event) => {
  focused = event.target.dataset.key;
  if (event.target.matches("select")) send(JSON.parse(event.target.value));
  if (event.target.matches("input[data-act]")) send(read(event.target));
});

element.addEventListener("keydown", (event) => {
  const button = event.target.closest("button[data-act]");
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!button || (!step && event.key !== "ArrowUp" && event.key !== "ArrowDown")) return;
  if (button.classList.contains("cell")) {
    const { model, layer, at } = read(button);
    const up = { ArrowUp: 1, ArrowDown: -1 }[event.key] || 0;
    focus(`${model}-${layer + up}-${at + (step || 0)}`);
  } else if (step && button.dataset.place !== undefined) {
    const all = tokens().filter((each) => read(each).kind === read(button).kind);
    const next = all[all.indexOf(button) + step];
    if (next && event.shiftKey && isSwap(next)) {
      const chosen = all.filter((each) => each.getAttribute("aria-pressed") === "true").map((each) => Number(each.dataset.place));
      const [here, there] = [Number(button.dataset.place), Number(next.dataset.place)];
      const fixed = here === Math.min(...chosen) ? Math.max(...chosen) : here === Math.max(...chosen) ? Math.min(...chosen) : here;
      focused = next.dataset.key;
      send({ kind: "swap", first: fixed, last: there });
    }
    if (next) next.focus();
  } else return;
  event.preventDefault();
});
const focus = (key) => {
  const node = element.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (node) node.focus();
};

// What is shown now is in the address, and what had the focus has it again.
watch("value", () => {
  const board = element.querySelector("[data-link]");
  if (board) history.replaceState(null, "", `?${board.dataset.link}`);
  if (focused && !element.contains(document.activeElement)) focus(focused);
});

const download = async (kind) => {
  const status = element.querySelector("[role=status]");
  const link = location.search.slice(1);
  if (kind === "link") {
    await navigator.clipboard.writeText(location.href);
    status.textContent = " copied";
    return;
  }
  status.textContent = " …";
  const { address, sentence } = await server.save([link, kind]);
  status.textContent = sentence || "";
  if (!address) return;
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = `diito-view.${kind}`;
  anchor.click();
};
