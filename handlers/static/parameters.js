/** A form of the parameters that a stream declares, in JSON Schema's words. */

import { element } from "./elements.js";

let made = 0;

/**
 * @typedef {object} Parameter
 * @property {string} name
 * @property {boolean} required
 * @property {unknown} [default]
 * @property {string} [type]
 * @property {unknown[]} [enum]
 */

export class Parameters {
  /** @type {{parameter: Parameter, input: HTMLInputElement | HTMLSelectElement}[]} */
  #fields;
  /** The form; without a parameter it is empty. */
  form;

  /**
   * @param {Parameter[]} parameters
   * @param {string} id - of the form
   * @param {string} name - of the stream
   * @param {() => void} onChange
   */
  constructor(parameters, id, name, onChange) {
    this.#fields = parameters.map((parameter) => ({ parameter, input: inputOf(plain(parameter)) }));
    this.form = element("form", { id, class: "parameters", "aria-label": `Parameters of ${name}`, autocomplete: "off" },
      ...this.#fields.map(labelled));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", onChange);
  }

  /** Whether the values will do as far as the browser knows; else it points to the one that will not. */
  check() {
    return this.form.reportValidity();
  }

  /** What differs from the defaults or has to be said, as a query has it. */
  get query() {
    const query = new URLSearchParams();
    for (const { parameter, input } of this.#fields) {
      const value = valueOf(input);
      const { name, required, type } = parameter;
      const isGiven = value !== "" || (type === "string" && !required);
      if (isGiven && (required || value !== textOf(parameter.default))) query.set(name, value);
    }
    return query;
  }

  /** Puts values into the form that it had before. @param {URLSearchParams} query */
  set query(query) {
    for (const { parameter, input } of this.#fields) {
      const value = query.get(parameter.name);
      if (value === null) continue;
      if (input.type === "checkbox") input.checked = value === "true";
      else input.value = value;
    }
  }
}

/** A type that may be absent is the type; of several types, any text is taken. */
function plain(parameter) {
  const types = (parameter.anyOf ?? []).filter((each) => each.type !== "null");
  return types.length === 1 ? { ...parameter, ...types[0] } : parameter;
}

/** Without a name: a form has its inputs by name among its own properties, and a parameter may have any. */
function inputOf(parameter) {
  const { required, type, format } = parameter;
  const id = `parameter-${++made}`;
  const given = textOf(parameter.default);
  if (parameter.enum || (type === "boolean" && given === "" && !required)) {
    const values = parameter.enum?.map(textOf) ?? ["true", "false"];
    const options = given === "" || !values.includes(given) ? ["", ...values] : values;
    return element("select", { id, required },
      ...options.map((value) => element("option", { value, selected: value === given }, value)));
  }
  if (type === "boolean") return element("input", { id, type: "checkbox", checked: given === "true" });
  const bounds = type === "number" || type === "integer"
    ? { type: "number", step: type === "integer" ? 1 : "any", ...range(parameter) }
    : { type: format === "date" ? "date" : "text", maxlength: parameter.maxLength ?? 2000 };
  return element("input", { id, required, value: given, placeholder: format ?? false, ...bounds });
}

function range({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }) {
  return { min: minimum ?? exclusiveMinimum ?? false, max: maximum ?? exclusiveMaximum ?? false };
}

function labelled({ parameter, input }) {
  const label = element("label", { for: input.id, lang: "" }, parameter.name);
  if (parameter.required) label.append(element("span", { class: "required" }, " (required)"));
  const hint = parameter.description && element("small", { id: `${input.id}-hint` }, String(parameter.description));
  if (hint) input.setAttribute("aria-describedby", hint.id);
  return element("div", { class: "parameter" }, label, input, hint || "");
}

function valueOf(input) {
  return input.type === "checkbox" ? String(input.checked) : input.value;
}

function textOf(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
