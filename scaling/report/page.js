// Lets a reader point at what the figures show, by mouse, touch and keyboard. Without it the page says all the same.
const NEAR = 22, NEAR_FINGER = 40;  // pixels from a point at which it is meant

function pointable(plot) {
  const marks = JSON.parse(plot.nextElementSibling.textContent).map(([x, y, run, link, title, own]) =>
    ({x, y, run, link, title, own}));
  if (!marks.length) return;
  const facts = JSON.parse($(plot.dataset.facts).textContent);
  const svg = plot.querySelector("svg"), box = svg.viewBox.baseVal;
  const ring = drawn("circle", svg, {r: 6, class: "ring"}), tip = plot.appendChild(made("div", undefined, "tip"));
  let stop = null, held = false;

  const place = mark => [mark.x / box.width * plot.clientWidth, mark.y / box.height * plot.clientHeight];
  const named = mark => mark.title || "run " + mark.run;
  function values(mark) {  // a mark with a title says its own facts alone
    const known = !mark.title && facts.runs[mark.run] || [];
    return facts.names.map((name, k) => [name, known[k]]).filter(pair => pair[1]).concat(mark.own);
  }
  function hide() {
    tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
    held = false;
  }
  function show(i) {
    const mark = marks[i], list = made("dl");
    for (const [name, value] of values(mark)) list.append(made("dt", name), made("dd", value));
    tip.replaceChildren(made("b", named(mark)), list);
    if (mark.link) {
      const link = tip.appendChild(made("a", mark.run ? "its row in the table" : "the runs behind it"));
      link.href = mark.link;
      link.tabIndex = -1;  // the point itself leads there by Enter
    }
    tip.hidden = false;
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    ring.setAttribute("visibility", "visible");
    const [x, y] = place(mark), top = plot.getBoundingClientRect().top + y - tip.offsetHeight - 12;
    tip.style.left = Math.max(0, Math.min(x - tip.offsetWidth / 2, plot.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = (top > 0 ? y - tip.offsetHeight - 12 : y + 12) + "px";
  }
  function nearest(event, reach) {
    const at = plot.getBoundingClientRect();
    let best = -1, least = reach;
    marks.forEach((mark, i) => {
      const [x, y] = place(mark), far = Math.hypot(x - event.clientX + at.left, y - event.clientY + at.top);
      if (far < least) [best, least] = [i, far];
    });
    return best;
  }

  // One stop for Tab in each figure; the arrow keys move it from point to point.
  function stand(i, focus) {
    const mark = marks[i], next = made("a", undefined, "stop");
    if (mark.link) next.href = mark.link; else next.setAttribute("role", "img");
    next.tabIndex = 0;
    next.style.left = 100 * mark.x / box.width + "%";
    next.style.top = 100 * mark.y / box.height + "%";
    const said = values(mark).map(pair => pair.join(" ")).join(", ");
    next.setAttribute("aria-label", `${named(mark)}: ${said}; point ${i + 1} of ${marks.length}, arrow keys for others`);
    next.addEventListener("focus", () => show(i));
    next.addEventListener("blur", () => { if (!held) hide(); });
    next.addEventListener("keydown", event => {
      const to = moved(i, event.key);
      if (to === undefined) return;
      event.preventDefault();
      stand(to, true);
    });
    const before = stop;
    stop = plot.insertBefore(next, tip);
    if (focus) next.focus({preventScroll: true});
    if (before) before.remove();
  }
  function moved(i, key) {
    if (key === "ArrowRight") return Math.min(i + 1, marks.length - 1);
    if (key === "ArrowLeft") return Math.max(i - 1, 0);
    if (key === "Home") return 0;
    if (key === "End") return marks.length - 1;
    if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
    const sign = key === "ArrowUp" ? -1 : 1;
    let best = i, least = Infinity;
    marks.forEach((mark, k) => {
      const away = sign * (mark.y - marks[i].y), far = away + 3 * Math.abs(mark.x - marks[i].x);
      if (away > 0.2 && far < least) [best, least] = [k, far];
    });
    return best;
  }

  plot.addEventListener("pointermove", event => {
    if (held || event.pointerType === "touch" || tip.contains(event.target)) return;
    const i = nearest(event, NEAR);
    if (i < 0) hide(); else show(i);
  });
  plot.addEventListener("pointerleave", () => { if (!held) hide(); });
  plot.addEventListener("click", event => {
    if (event.target.closest("a")) return;
    const i = nearest(event, event.pointerType === "touch" ? NEAR_FINGER : NEAR);
    hide();
    if (i < 0) return;
    stand(i, false);
    show(i);
    held = true;
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", event => { if (!plot.contains(event.target)) hide(); });
  hide();
  stand(0, false);
}

function reveal() {  // what a link leads to may lie in something closed
  const around = location.hash && $(decodeURIComponent(location.hash.slice(1)))?.closest("details");
  if (around && !around.open) {
    around.open = true;
    around.scrollIntoView();
  }
}

for (const plot of document.querySelectorAll(".plot")) pointable(plot);
if ($("what-if-data")) panel(JSON.parse($("what-if-data").textContent));
addEventListener("hashchange", reveal);
let folded = [];  // on paper nothing can be opened
addEventListener("beforeprint", () => { (folded = [...document.querySelectorAll("details:not([open])")]).forEach(one => { one.open = true; }); });
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
reveal();
