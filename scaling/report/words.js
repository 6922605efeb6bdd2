// Nodes and numbers, as the scripts of our pages write them. All text goes into text nodes.
const $ = id => document.getElementById(id), NS = "http://www.w3.org/2000/svg";

function made(tag, text, kind) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
}
function drawn(tag, parent, values) {
  const node = parent.appendChild(document.createElementNS(NS, tag));
  for (const [name, value] of Object.entries(values)) node.setAttribute(name, value);
  return node;
}
function short(value) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (value >= 0.9995 * size) return String(Number((value / size).toPrecision(3))) + letter;
  return String(Number(value.toPrecision(3)));
}
function power(value) {
  const [lead, exponent] = value.toExponential(1).split("e");
  const raised = "10" + String(Number(exponent)).replace(/./g, sign => sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]);
  return lead === "1.0" ? raised : lead.replace(".0", "") + "×" + raised;
}
