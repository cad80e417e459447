"use strict"; // the files of this script are joined in this order: tools, heat, compare, page
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
const SVG = "http://www.w3.org/2000/svg";
const articles = $$(".query");
const SPECIAL = /^(<\|[^|<>]{1,40}\|>|<\/?s>|\[(CLS|SEP|PAD)\])$/; // marks of tokenizers: shown small
const MARKED = 0.2; // share of full colour from which a token is also marked by a line
let ranking = "nats";

const make = (tag, options = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key === "class") node.className = value;
    else if (key === "text") node.textContent = value;
    else node.setAttribute(key, value);
  }
  node.append(...inside);
  return node;
};

const bytes = (text) => Int8Array.from(atob(text), (c) => c.charCodeAt(0));

const superscript = (n) => String(n).replace(/[-0-9]/g, (c) => "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"["-0123456789".indexOf(c)]);

const number = (value, digits = 2) => {
  if (value === 0) return "0";
  const lead = value < 0 ? "\u2212" : "+";
  const [mantissa, exponent] = Math.abs(value).toExponential(digits - 1).split("e").map(Number);
  if (exponent >= -3 && exponent < 6) return lead + Math.abs(value).toFixed(Math.max(0, digits - 1 - exponent));
  return `${lead}${mantissa.toFixed(digits - 1)}\u00b710${superscript(exponent)}`;
};

const rectangle = (x, y, width, height, name) => {
  const node = document.createElementNS(SVG, "rect");
  for (const [key, value] of Object.entries({ x, y, width, height, class: name })) node.setAttribute(key, value);
  return node;
};
