// Elements without markup: text goes in as text, whatever it holds.

/** Return an element with properties and children; a child that is no node becomes text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const find = (id) => document.getElementById(id);

const digits = (value) => (value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
const formats = [0, 1, 2].map((most) => new Intl.NumberFormat("en", { maximumFractionDigits: most }));

/** Return a number as people read it, with three digits that count; "–" of nothing. */
export const short = (value) => (value == null ? "–" : formats[digits(Math.abs(value))].format(value));

/** Return whole numbers with their thousands apart. */
export const whole = (value) => formats[0].format(value);
