/** The endless stream `lines`, started and stopped; how it is read and shown is log.js's. */

import { byId, element } from "./elements.js";
import { Log, logNamed, refusal } from "./log.js";

/** Seconds of silence beyond a few lines' time after which the connection counts as lost. */
const SILENCE_SECONDS = 10;

export class Lines {
  #sleep = byId("lines-sleep");
  #log;

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {(flowing: boolean) => void} options.onFlow - lines begin or cease to come
   */
  constructor({ notices, onFlow }) {
    this.#log = new Log(logNamed("lines"), {
      onFlow,
      onClear: () => notices.clear("lines"),
      over: refusal(notices, "lines", "The lines could not be started.", () => this.#log.start()),
      // Heartbeats are left out: a line that starts with spaces would look like one.
      open: () => `/stream/lines?format=text&heartbeat=0&sleep=${this.#sleep.value}`,
      read: (lines) => lines,
      row: (line) => element("p", {}, line),
      silenceSeconds: () => SILENCE_SECONDS + 3 * Number(this.#sleep.value),
      pauseSeconds: () => 1,
      running: () => "Running",
      noun: "line",
    });
    this.#sleep.addEventListener("change", () => {
      if (!this.#log.stopped) this.#log.start();
    });
  }
}
