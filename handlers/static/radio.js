/**
 * Live audio: what can be heard now, and one `<audio>` element that plays it.
 *
 * What is live has no place to go back to: to stop is to leave, and whoever comes back hears what is played then.
 * A connection that is lost is taken up again some times. Without anything to hear the panel is not there.
 */

import { byId, element, onPress, quoted } from "./elements.js";
import { takeMediaSession, tellPosition } from "./mediasession.js";
import { requestJson } from "./problem.js";
import { keepFresh } from "./refresh.js";

const REFRESH_SECONDS = 10;
/** Pauses before the tries that follow a lost connection: the server holds listeners 10 s for a source. */
const PAUSES_SECONDS = [1, 2, 4, 8, 15];
/** Silence of the element, while it has nothing to play, after which the connection counts as lost. */
const PATIENCE_SECONDS = 20;
/** What has played for so long was heard: the tries are counted anew. */
const HEARD_SECONDS = 10;

/**
 * @typedef {object} Mount
 * @property {string} name
 * @property {string} title - of what is played now; may be empty
 * @property {string} url
 * @property {string} events_url
 * @property {string} media_type
 * @property {number} listeners
 * @property {"live" | "station" | null} source
 */

export class Radio {
  #section = byId("radio-section");
  #list = byId("radio-list");
  #state = byId("radio-state");
  #audio = byId("radio");
  #notices;
  #onFlow;
  #onPlay;
  #onTitle;
  #refresh;
  /** @type {Map<string, Row>} */
  #rows = new Map();
  /** What is heard, or is about to be. @type {Mount | null} */
  #mount = null;
  #failures = 0;
  /** Aborted when the connection is given up. */
  #turn = new AbortController();

  /**
   * @param {object} options
   * @param {import("./notices.js").Notices} options.notices
   * @param {HTMLMediaElement} options.volume - whose volume is the radio's too
   * @param {() => void} options.onPlay - it is about to be heard
   * @param {(title: string, name: string) => void} options.onTitle - of what is heard; both empty: nothing is
   * @param {(flowing: boolean) => void} options.onFlow - sound begins or ends
   */
  constructor({ notices, volume, onPlay, onTitle, onFlow }) {
    this.#notices = notices;
    this.#onPlay = onPlay;
    this.#onTitle = onTitle;
    this.#onFlow = onFlow;
    volume.addEventListener("volumechange", () => {
      this.#audio.volume = volume.volume;
      this.#audio.muted = volume.muted;
    });
    this.#listen();
    this.#refresh = keepFresh(byId("live"), REFRESH_SECONDS, () => this.#load());
  }

  /** Plays what is heard at a mount now. @param {Mount} mount */
  play(mount) {
    this.#onPlay();
    this.#mount = mount;
    this.#failures = 0;
    this.#notices.clear("radio");
    this.#update(mount); // it may have left the list meanwhile
    this.#section.hidden = false;
    this.#connect();
  }

  /** Ends the sound, and with it the download. */
  stop() {
    if (this.#mount === null) return;
    this.#mount = null;
    this.#leave();
    this.#show("stopped", "Stopped");
    this.#onTitle("", "");
  }

  async #load() {
    const { mounts } = await requestJson("/audio/live");
    for (const mount of mounts) this.#update(mount);
    const listed = new Set(mounts.map((mount) => mount.name));
    for (const [name, row] of this.#rows) {
      if (listed.has(name) || name === this.#mount?.name) continue;
      row.item.remove();
      this.#rows.delete(name);
    }
    this.#section.hidden = this.#rows.size === 0;
  }

  /** @param {Mount} mount */
  #update(mount) {
    let row = this.#rows.get(mount.name);
    if (!row) {
      row = new Row(() => (this.#mount?.name === mount.name ? this.stop() : this.play(row.mount)));
      this.#rows.set(mount.name, row);
      this.#list.append(row.item);
    }
    row.show(mount);
    row.mark(mount.name === this.#mount?.name);
  }

  #listen() {
    const audio = this.#audio;
    audio.addEventListener("playing", () => this.#playing());
    audio.addEventListener("waiting", () => {
      if (this.#mount === null) return;
      this.#show("connecting", `Waiting for ${this.#mount.name}`);
      this.#lostAfter(PATIENCE_SECONDS);
    });
    audio.addEventListener("error", () => this.#lost());
    audio.addEventListener("ended", () => this.#lost());
    // A headset was pulled out, say. An end pauses too, and is told behind it.
    audio.addEventListener("pause", () => { if (!audio.ended) this.stop(); });
  }

  #connect() {
    const { name, url, events_url: events } = this.#mount;
    this.#leave();
    this.#turn = new AbortController();
    this.#show("connecting", `Connecting to ${name}`);
    this.#tellTitle();
    this.#followTitle(events, this.#turn.signal);
    this.#audio.src = url;
    this.#lostAfter(PATIENCE_SECONDS);
    this.#audio.play().catch((error) => {
      if (error.name === "NotAllowedError") this.#end("The browser did not let the sound start by itself.");
    });
  }

  /** Ends the download and what goes with it. */
  #leave() {
    this.#turn.abort();
    this.#audio.removeAttribute("src");
    this.#audio.load(); // without it the old source would go on coming
  }

  /** Calls `act` after some seconds, unless the connection is given up before, or the element says `unless`. */
  #later(seconds, act, unless = "") {
    const { signal } = this.#turn;
    const timer = setTimeout(act, seconds * 1000);
    const forget = () => clearTimeout(timer);
    signal.addEventListener("abort", forget, { once: true });
    if (unless) this.#audio.addEventListener(unless, forget, { once: true, signal });
  }

  #lostAfter(seconds) {
    this.#later(seconds, () => this.#lost(), "playing");
  }

  #playing() {
    if (this.#mount === null) return;
    this.#show("running", `Playing ${this.#mount.name}`);
    this.#refresh();
    this.#later(HEARD_SECONDS, () => { this.#failures = 0; }, "waiting");
  }

  /** Tries again after a pause, some times. */
  #lost() {
    if (this.#mount === null) return;
    const { name, media_type: type } = this.#mount;
    if (type && !this.#audio.canPlayType(type)) {
      this.#end(`This browser cannot play ${name} (${type}).`);
    } else if (this.#failures === PAUSES_SECONDS.length) {
      this.#end(`${name} can no longer be heard.`);
    } else {
      const seconds = PAUSES_SECONDS[this.#failures];
      this.#failures += 1;
      this.#leave();
      this.#turn = new AbortController();
      this.#show("lost", `The sound ended. Trying again in ${seconds} s.`);
      this.#later(seconds, () => this.#connect());
    }
  }

  /** Gives up, and says why. */
  #end(sentence) {
    const mount = this.#mount;
    this.stop();
    this.#notices.show("radio", sentence, { actions: [{ label: "Play again", act: () => this.play(mount) }] });
  }

  #followTitle(url, signal) {
    const source = new EventSource(url);
    signal.addEventListener("abort", () => source.close(), { once: true });
    source.addEventListener("now-playing", ({ data }) => {
      const mount = { ...this.#mount, ...JSON.parse(data) };
      if (mount.name !== this.#mount.name) return;
      this.#mount = mount;
      this.#update(mount);
      this.#tellTitle();
    });
  }

  #tellTitle() {
    const mount = this.#mount;
    const { title, name } = mount;
    takeMediaSession({ title: title || name, artist: title ? name : "" }, {
      play: () => { if (this.#mount === null) this.play(mount); },
      pause: () => this.stop(),
      stop: () => this.stop(),
    });
    tellPosition();
    this.#onTitle(title, name);
  }

  #show(state, sentence) {
    this.#section.dataset.state = state;
    this.#state.textContent = sentence;
    for (const [name, row] of this.#rows) row.mark(name === this.#mount?.name);
    this.#onFlow(state === "running");
    if (state === "stopped") this.#refresh?.();
  }
}

/** A mount in the list. */
class Row {
  /** @type {Mount} */
  mount;
  #button = element("button", { type: "button" });
  #title = quoted("mount-title", "");
  #badge = element("span", { class: "badge" });
  #facts = quoted("mount-facts", "");
  item = element("li", { class: "mount" }, this.#button, this.#title,
    element("span", { class: "mount-by" }, this.#badge, " ", this.#facts));

  constructor(onPress_) {
    onPress(this.#button, onPress_);
  }

  /** @param {Mount} mount */
  show(mount) {
    this.mount = mount;
    const { name, title, listeners, source } = mount;
    const listening = `${listeners.toLocaleString("en")} listening`;
    this.#title.textContent = title || name;
    this.#facts.textContent = title ? `${name} · ${listening}` : listening;
    this.#badge.textContent = source ?? "off air";
    this.#badge.dataset.source = source ?? "";
  }

  /** @param {boolean} heard - its button stops it */
  mark(heard) {
    const act = heard ? "Stop" : "Play";
    this.#button.textContent = act;
    this.#button.setAttribute("aria-label", `${act} ${this.mount.name}`);
    this.#button.classList.toggle("start", !heard);
    this.item.toggleAttribute("data-heard", heard);
  }
}
