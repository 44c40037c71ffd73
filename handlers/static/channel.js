/**
 * Channels: the events of the one that was chosen as they come, how many listen, and a form that publishes.
 *
 * The page begins with what the server remembers and goes on behind what it saw last; what is missing in between
 * is shown as missing. Without any channel the panel is not there.
 */

import { byId, element, quoted, setEnabled } from "./elements.js";
import { Events } from "./events.js";
import { Log, logNamed, refusal } from "./log.js";
import { asProblem, request, requestJson } from "./problem.js";
import { keepFresh } from "./refresh.js";
import { cut, exact, SHOWN_CHARACTERS } from "./values.js";

const REFRESH_SECONDS = 5;
const PUBLISH_SECONDS = 20;
/** JSON up to this length stays on its line. */
const ONE_LINE = 60;
/** JSON with more brackets stays as it came: one within the other, 2000 of them took 50 ms to indent. */
const MOST_BRACKETS = 500;

export class Channel {
  #section = byId("channel-section");
  #choice = byId("channel-choice");
  #listening = byId("channel-listening");
  #form = byId("publish");
  #closed = byId("publish-closed");
  #data = byId("publish-data");
  #event = byId("publish-event");
  #type = byId("publish-type");
  #send = byId("publish-send");
  #outcome = byId("publish-outcome");
  #events = new Events();
  /** Whether what came last has a gap, which the box shows, and the state tells to who does not see it. */
  #missing = false;
  #log;
  #refresh;
  /** By name. @type {Map<string, {name: string, title: string, url: string, channel: object}>} */
  #channels = new Map();

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(flowing: boolean) => void} options.onFlow - events can come, or no longer
   */
  constructor({ notices, onFlow }) {
    this.#log = new Log(logNamed("channel"), {
      onClear: () => notices.clear("channel"),
      over: refusal(notices, "channel", "The events could not be started.", () => this.#log.start()),
      onFlow: (flowing) => {
        onFlow(flowing);
        this.#refresh?.();
      },
      open: () => this.#open(),
      read: (lines) => this.#read(lines),
      row,
      silenceSeconds: () => this.#events.silenceSeconds,
      pauseSeconds: () => this.#events.pauseSeconds,
      running: () => `Following ${this.#choice.value}${this.#missing ? ". Some events are missing." : ""}`,
      noun: "event",
      onStart: () => { this.#events = new Events(); },
    });
    this.#choice.addEventListener("change", () => {
      this.#showFacts();
      this.#outcome.textContent = "";
      if (this.#log.stopped) this.#log.clear();
      else this.#log.start();
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault(); // the policy of the page would let it go out as a form
      this.#publish();
    });
    this.#data.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    this.#refresh = keepFresh(byId("live"), REFRESH_SECONDS, () => this.#load());
  }

  async #load() {
    const { streams } = await requestJson("/streams");
    const channels = streams.filter((stream) => stream.channel);
    const before = [...this.#channels.keys()].join();
    this.#channels = new Map(channels.map((channel) => [channel.name, channel]));
    if ([...this.#channels.keys()].join() !== before) this.#offer();
    this.#section.hidden = channels.length === 0;
    this.#showFacts();
  }

  /** Lists the channels in the choice, with the one chosen still so. */
  #offer() {
    const chosen = this.#choice.value;
    this.#choice.replaceChildren(
      ...[...this.#channels.keys()].map((name) => element("option", { value: name }, name)));
    if (this.#channels.has(chosen)) this.#choice.value = chosen;
  }

  #showFacts() {
    const chosen = this.#channels.get(this.#choice.value);
    if (!chosen) return;
    this.#choice.title = chosen.title;
    this.#listening.textContent = `${chosen.channel.subscribers.toLocaleString("en")} listening`;
    this.#form.hidden = !chosen.channel.publishing;
    this.#closed.hidden = chosen.channel.publishing;
  }

  #open() {
    this.#events.begin();
    const lastId = encodeURIComponent(this.#events.lastId || "earliest");
    return `/stream/${encodeURIComponent(this.#choice.value)}?format=sse&last_event_id=${lastId}`;
  }

  #read(lines) {
    const events = this.#events.read(lines);
    this.#missing = events.some((event) => event.name === "gap");
    return events;
  }

  async #publish() {
    if (this.#send.getAttribute("aria-disabled") === "true") return;
    setEnabled(this.#send, false);
    const event = this.#event.value && `?event=${encodeURIComponent(this.#event.value)}`;
    try {
      const response = await request(`/stream/${encodeURIComponent(this.#choice.value)}${event}`, {
        method: "POST",
        body: this.#data.value,
        headers: { "Content-Type": this.#type.value },
        signal: AbortSignal.timeout(PUBLISH_SECONDS * 1000),
      });
      const { id } = await response.json();
      this.#data.value = "";
      this.#tell(`Published as ${id}`, false);
    } catch (error) {
      this.#tell(asProblem(error).message, true);
    }
    setEnabled(this.#send, true);
    this.#data.focus();
  }

  #tell(sentence, failed) {
    this.#outcome.textContent = sentence;
    this.#outcome.classList.toggle("failed", failed);
    this.#data.setAttribute("aria-invalid", String(failed));
  }
}

/** @param {import("./events.js").StreamEvent} event */
function row(event) {
  if (event.name === "gap") return gap(JSON.parse(event.data)); // no publisher may name an event so
  const head = element("p", { class: "event-head" }, quoted("event-name", event.name || "message"), " ",
    element("span", { class: "event-id" }, event.id));
  return element("div", { class: "event" }, head, element("pre", { lang: "", dir: "auto" }, pretty(event.data)));
}

/** The mark where the server no longer knows what came. */
function gap({ last_event_id: last, first_id: first }) {
  const between = first === null ? `after ${last}` : `after ${last}, before ${first}`;
  return element("p", { class: "gap" }, "Events are missing here ", element("small", {}, between));
}

/** JSON with indents, anything else as it came; cut where nobody would read on. */
function pretty(data) {
  const text = data.length > ONE_LINE && /^[[{]/.test(data) ? indented(data) : data;
  return cut(text, SHOWN_CHARACTERS);
}

function indented(data) {
  if (data.split(/[[{]/).length > MOST_BRACKETS) return data;
  try {
    return JSON.stringify(JSON.parse(data, exact), null, 2);
  } catch {
    return data;
  }
}
