/** The named streams, the server's own and those of its user; one of them is stream.js's. */

import { byId } from "./elements.js";
import { remembered } from "./job.js";
import { asProblem, requestJson } from "./problem.js";
import { count } from "./quantities.js";
import { Stream } from "./stream.js";

/** With more there is a field that filters them. */
const UNFILTERED = 12;

export class Streams {
  #list = byId("stream-list");
  #count = byId("stream-count");
  #search = byId("stream-search");
  #filter = byId("stream-filter");
  #notices;
  #options;
  /** @type {Stream[]} */
  #streams = [];

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(part: string) => (flowing: boolean) => void} options.flow
   * @param {() => void} options.onSound - one of them is about to be heard
   */
  constructor({ notices, flow, onSound }) {
    this.#notices = notices;
    this.#options = {
      flow,
      onSound: (stream) => {
        for (const other of this.#streams) if (other !== stream) other.silence();
        onSound();
      },
    };
    this.#filter.addEventListener("input", () => this.#show());
  }

  /** Lists them; resolves when they are shown or that has failed. */
  async load() {
    this.#notices.trying("streams");
    this.#list.setAttribute("aria-busy", "true");
    try {
      const { streams } = await requestJson("/streams");
      this.#notices.clear("streams");
      this.#offer(streams);
    } catch (error) {
      const problem = asProblem(error);
      this.#notices.show("streams", `The streams could not be listed. ${problem.message}`, {
        reference: problem.instance,
        actions: [{ label: "Try again", act: () => this.load() }],
        whenBack: problem.unanswered ? () => this.load() : null,
      });
    }
    this.#list.setAttribute("aria-busy", "false");
  }

  /** None of them is heard any longer. */
  silence() {
    for (const stream of this.#streams) stream.silence();
  }

  /** @param {import("./stream.js").StreamFacts[]} listed */
  #offer(listed) {
    this.#streams = listed.map((facts) => new Stream(facts, this.#options));
    this.#list.replaceChildren(...this.#streams.map((stream) => stream.item));
    this.#search.hidden = listed.length <= UNFILTERED;
    this.#show();
    const begun = remembered.all();
    listed.forEach((facts, at) => {
      if (facts.job && begun.has(facts.name)) this.#streams[at].comeBack(begun.get(facts.name));
    });
  }

  #show() {
    const words = this.#filter.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const stream of this.#streams) {
      const matches = stream.matches(words);
      stream.item.hidden = !matches;
      shown += Number(matches);
    }
    const all = count(this.#streams.length, "stream");
    this.#count.textContent = shown < this.#streams.length ? `${shown} of ${all}` : all;
  }
}
