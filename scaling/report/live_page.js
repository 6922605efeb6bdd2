// Shows what /data.json says of a sweep, again and again until it is over. All of it goes into text nodes.
const W = 440, H = 300, LEFT = 44, RIGHT = 8, TOP = 8, BOTTOM = 40;
const runs = new Map(), rows = new Map(), panels = new Map();
let token = "", sizes = [], timer = 0;

const colour = n => "var(--r" + (sizes.length < 2 ? 5 : Math.round(11 * sizes.indexOf(n) / (sizes.length - 1))) + ")";
const bad = run => run.status === "failed" || run.status === "diverged";

function ticks(low, high) {
  if (high < 6 * low) {  // even steps of 1, 2 or 5
    const least = (high - low) / 6, power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 5, 10].find(lead => lead * power >= least), found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
    return found;
  }
  for (const leads of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      found.push(...leads.map(lead => lead * 10 ** power).filter(at => at >= low && at <= high));
    if (found.length <= 7 || leads.length === 1) return found;
  }
}
function panel(group) {
  if (!panels.has(group)) {
    const box = made("figure"), svg = drawn("svg", box, {viewBox: `0 0 ${W} ${H}`, role: "img"});
    svg.setAttribute("aria-label", "loss against tokens: " + group);
    const caption = box.appendChild(made("figcaption"));
    caption.append(made("b", group), " ");
    const said = caption.appendChild(made("span"));
    panels.set(group, {box, said, axes: drawn("g", svg, {}), curves: drawn("g", svg, {}), paths: new Map(), range: ""});
    $("panels").append(box);
  }
  return panels.get(group);
}
function draw(group, changed) {
  const members = [...runs.values()].filter(run => run.group === group && run.curve.length);
  if (!members.length) return;
  const at = panel(group);
  let x0 = Infinity, x1 = 0, y0 = Infinity, y1 = 0;
  for (const run of members)
    for (const [x, y] of run.curve.concat(run.loss > 0 ? [[run.step * run.batch_tokens, run.loss]] : []))
      if (x > 0 && y > 0) { x0 = Math.min(x0, x); x1 = Math.max(x1, x); y0 = Math.min(y0, y); y1 = Math.max(y1, y); }
  if (!(x0 <= x1)) return;
  if (x0 === x1) { x0 /= 2; x1 *= 2; }
  y0 *= .98; y1 *= 1.02;
  const px = x => LEFT + (W - LEFT - RIGHT) * Math.log(x / x0) / Math.log(x1 / x0);
  const py = y => TOP + (H - TOP - BOTTOM) * Math.log(y1 / y) / Math.log(y1 / y0);
  const range = [x0, x1, y0, y1].join(), moved = range !== at.range;
  if (moved) {
    at.range = range;
    at.axes.replaceChildren();
    for (const x of ticks(x0, x1)) {
      drawn("line", at.axes, {x1: px(x), x2: px(x), y1: TOP, y2: H - BOTTOM});
      drawn("text", at.axes, {x: px(x), y: H - BOTTOM + 15, "text-anchor": "middle"}).textContent = short(x);
    }
    for (const y of ticks(y0, y1)) {
      drawn("line", at.axes, {x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y)});
      drawn("text", at.axes, {x: LEFT - 6, y: py(y) + 4, "text-anchor": "end"}).textContent = short(y);
    }
    drawn("text", at.axes, {x: (LEFT + W) / 2, y: H - 6, "text-anchor": "middle"}).textContent = LABELS.x;
    drawn("text", at.axes, {x: -(TOP + H - BOTTOM) / 2, y: 11, "text-anchor": "middle", transform: "rotate(-90)"})
      .textContent = LABELS.y;
  }
  for (const run of members) {
    if (!moved && !changed.has(run.id)) continue;
    if (!at.paths.has(run.id)) {
      const path = drawn("path", at.curves, {});
      drawn("title", path, {}).textContent = `${run.id}: N ${short(run.n)}, D ${short(run.steps * run.batch_tokens)}`;
      at.paths.set(run.id, {path, end: null});
    }
    const shape = at.paths.get(run.id);
    const points = run.curve.filter(([x, y]) => x > 0 && y > 0)
      .map(([x, y]) => px(x).toFixed(1) + " " + py(y).toFixed(1));
    shape.path.setAttribute("d", points.length ? "M" + points.join("L") + (points.length < 2 ? "h.1" : "") : "");
    shape.path.setAttribute("class", bad(run) ? "bad" : run.status === "finished" ? "over" : "");
    shape.path.style.stroke = colour(run.n);
    if (run.loss > 0) {
      shape.end = shape.end || drawn("circle", at.curves, {r: 2.6});
      shape.end.setAttribute("cx", px(run.step * run.batch_tokens));
      shape.end.setAttribute("cy", py(run.loss));
      shape.end.style.fill = colour(run.n);
    } else if (shape.end) { shape.end.remove(); shape.end = null; }
  }
  const going = members.filter(run => run.status === "running").length;
  at.said.textContent = `${members.length === 1 ? "one curve" : members.length + " curves"}, ${going} growing`;
}
function row(run) {
  const listed = run.status === "running" ? "running" : bad(run) || run.status === "begun" ? "stopped" : "";
  let line = rows.get(run.id);
  if (line && (!listed || line.parentNode !== $(listed))) { line.remove(); rows.delete(run.id); line = null; }
  if (!listed) return;
  if (!line) {
    line = made("tr");
    rows.set(run.id, line);
    $(listed).append(line);
    line.append(made("td", run.id, "id"), made("td", run.group), made("td", short(run.n), "number"));
    if (listed === "running") {
      const bar = made("progress");
      bar.setAttribute("aria-label", "steps done");
      line.append(made("td"));
      line.lastChild.append(bar);
    } else line.append(made("td"));
    for (const kind of listed === "running" ? ["number", "number", "number", ""] : ["number", "why", "why"])
      line.append(made("td", "", kind));
  }
  const cells = line.children;
  if (listed === "running") {
    cells[3].firstChild.value = run.fraction;
    cells[4].textContent = `${short(run.step)} / ${short(run.steps)}`;
    cells[5].textContent = loss(run.train_loss);
    cells[6].textContent = run.tokens_per_second ? Math.round(run.tokens_per_second).toLocaleString("en") : "";
    cells[7].textContent = run.host;
  } else {
    line.className = bad(run) ? "lost" : "";
    cells[3].textContent = run.status;
    cells[4].textContent = `${short(run.step)} / ${short(run.steps)}`;
    cells[5].textContent = run.reason;
    cells[6].textContent = run.way_out;
  }
}
function take(said) {
  if (said.whole) {
    for (const map of [runs, rows, panels]) map.clear();
    for (const id of ["panels", "running", "stopped"]) $(id).replaceChildren();
  }
  token = said.token;
  document.title = said.study + ": " + said.planned + " runs";
  $("study").textContent = said.study;
  $("question").textContent = said.question;
  if (sizes.join() !== said.sizes.join()) {
    sizes = said.sizes;
    $("key").replaceChildren(...sizes.map(n => {
      const item = made("span"), mark = item.appendChild(made("i"));
      mark.style.background = colour(n);
      item.append("N " + short(n));
      return item;
    }));
  }
  $("counts").replaceChildren(...Object.entries(said.counts).map(([status, count]) => {
    const item = made("li", undefined, status === "failed" || status === "diverged" ? "bad" : "");
    item.append(made("b", count.toLocaleString("en")), status);
    return item;
  }));
  $("all").max = said.planned || 1;
  $("all").value = (said.counts.finished || 0) + (said.counts.diverged || 0);
  $("who").replaceChildren(...said.participants.map(p => {
    const where = p.host + (p.job ? ", job " + p.job : ""), hands = p.in_hand + (p.in_hand === 1 ? " run" : " runs");
    if (!p.live) return made("li", `gone: ${where}, which held ${hands}`, "gone");
    return made("li", `at work: ${where}, ${hands} in hand`);
  }));
  if (said.go_on) $("who").append(made("li", "nobody is at work; to go on: " + said.go_on));
  const changed = new Set(), groups = new Set();
  for (const run of said.runs) {
    const known = runs.get(run.id);
    if (known && !run.whole) run.curve = known.curve.concat(run.curve);
    runs.set(run.id, run);
    changed.add(run.id);
    groups.add(run.group);
    row(run);
  }
  for (const group of said.groups) if (groups.has(group)) draw(group, changed);
  $("curves").hidden = !panels.size;
  $("live").hidden = !$("running").childElementCount;
  $("left").hidden = !$("stopped").childElementCount;
  const hidden = said.shown - rows.size;
  $("more").textContent = hidden > 0 ? `${hidden.toLocaleString("en")} more are counted above and not listed.` : "";
  say(said.over ? "Nothing is left to do, or nobody is at work any more. Reload this page to look again." : "");
  return !said.over;
}
function say(text) { $("state").textContent = text; $("state").hidden = !text; }
async function look() {
  let answer = null, said = "";
  try {
    answer = await fetch("data.json?since=" + encodeURIComponent(token), {cache: "no-store"});
    said = await answer.text();
  } catch (error) {
    say("The server of this page is gone; `scaling status DIR --serve` starts one.");
  }
  if (answer && !answer.ok) say(said);
  if (answer && answer.ok && !take(JSON.parse(said))) return;
  timer = setTimeout(look, !(answer && answer.ok) ? 5000 : document.hidden ? 10000 : 1500);
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !timer) return;
  clearTimeout(timer);
  timer = 0;
  look();
});
