/**
 * The player: one `<audio>` element, what it plays, and the way to the next track.
 *
 * It knows no list: a queue (tracks.js) tells it what comes before and after the current track.
 */

import { byId, onPress, setEnabled } from "./elements.js";
import { takeMediaSession, tellPosition } from "./mediasession.js";
import { asProblem, Problem, request } from "./problem.js";
import { byline } from "./tracks.js";

/** Seconds after which "previous" starts the track again instead of going back. */
const RESTART_SECONDS = 3;
const SEEK_SECONDS = 10;
/** Seconds for which a track that fails stands before the next one takes its place. */
const PASS_OVER_SECONDS = 3;

/** @typedef {import("./tracks.js").Track} Track */

export class Player {
  #audio = byId("player");
  #cover = byId("cover");
  #title = byId("now-title");
  #by = byId("now-by");
  #previous = byId("previous");
  #next = byId("next");
  #queue;
  #notices;
  #onTrack;
  #onPlaying;
  /** @type {Track | null} */
  #track = null;
  /** Aborted when another track takes the place of the current one. */
  #turn = new AbortController();
  /** Whether the current track followed another, and was not chosen itself. */
  #followed = false;
  /** Tracks that have failed one after the other. */
  #failures = 0;

  /**
   * @param {object} options
   * @param {{before(id: number): Track | null, after(id: number): Promise<Track | null>,
   *          hasAfter(id: number): boolean}} options.queue
   * @param {import("./notices.js").Notices} options.notices
   * @param {(track: Track) => void} options.onTrack - another track is the current one
   * @param {(track: Track) => void} options.onPlaying - it is heard, or is about to be
   * @param {(flowing: boolean) => void} options.onFlow - sound begins or ends
   */
  constructor({ queue, notices, onTrack, onPlaying, onFlow }) {
    this.#queue = queue;
    this.#notices = notices;
    this.#onTrack = onTrack;
    this.#onPlaying = onPlaying;
    onPress(this.#previous, () => this.back());
    onPress(this.#next, () => this.forward());
    this.#cover.addEventListener("error", () => { this.#cover.hidden = true; });
    this.#listen(onFlow);
  }

  /** @returns {Track | null} */
  get track() {
    return this.#track;
  }

  /** Makes a track the current one, ready to be played. @param {Track} track */
  cue(track) {
    this.#turn.abort();
    this.#turn = new AbortController();
    this.#track = track;
    this.#followed = false;
    this.#notices.clear("player");
    this.#audio.src = track.url;
    this.#show(track);
    this.#onTrack(track);
    this.refresh();
  }

  /** Plays a track that was chosen; the current one again from where it stands. @param {Track} track */
  play(track) {
    this.#notices.clear("passed-over");
    this.#play(track);
  }

  /** Makes way for another sound: nothing follows by itself either. */
  pause() {
    this.#turn.abort();
    this.#turn = new AbortController();
    this.#audio.pause();
  }

  /** Plays the next track of the queue, if there is one. */
  async forward() {
    const turn = this.#turn;
    const track = this.#track && (await this.#queue.after(this.#track.id));
    if (!track || turn.signal.aborted) return;
    this.#play(track);
    this.#followed = true;
  }

  /** Starts the track again, or plays the one before it if this one has hardly begun. */
  back() {
    const before = this.#track && this.#queue.before(this.#track.id);
    if (before && this.#audio.currentTime <= RESTART_SECONDS) this.play(before);
    else this.#audio.currentTime = 0;
  }

  /** Brings the buttons up to date after the queue has changed. */
  refresh() {
    setEnabled(this.#previous, this.#track !== null);
    setEnabled(this.#next, this.#track !== null && this.#queue.hasAfter(this.#track.id));
  }

  #listen(onFlow) {
    const audio = this.#audio;
    audio.addEventListener("ended", () => this.forward());
    audio.addEventListener("error", () => this.#explain());
    audio.addEventListener("play", () => this.#takeMediaSession());
    audio.addEventListener("playing", () => {
      this.#failures = 0;
      this.#onPlaying(this.#track);
      onFlow(true);
    });
    for (const name of ["pause", "ended", "emptied", "waiting"]) {
      audio.addEventListener(name, () => onFlow(false));
    }
    for (const name of ["loadedmetadata", "seeked", "ratechange", "playing"]) {
      audio.addEventListener(name, () => this.#tellPosition());
    }
  }

  #play(track) {
    if (track.id !== this.#track?.id || this.#audio.error) this.cue(track);
    this.#onPlaying(track);
    this.#start();
  }

  async #start() {
    try {
      await this.#audio.play();
    } catch (error) {
      // A failing source also fires `error`, and an AbortError is only the next track's turn.
      if (error.name !== "NotAllowedError") return;
      this.#notices.show("player", "The browser did not let the sound start by itself.", {
        actions: [{ label: "Play", act: () => this.#start() }],
      });
    }
  }

  #show(track) {
    this.#title.textContent = track.title;
    this.#by.textContent = byline(track);
    this.#cover.hidden = !track.cover_url;
    if (track.cover_url) this.#cover.src = track.cover_url;
    else this.#cover.removeAttribute("src");
    this.#cover.alt = `Cover of ${track.album || track.title}`;
  }

  /** Says that the current track cannot be played, and passes it over if it followed one that could. */
  async #explain() {
    const { signal } = this.#turn;
    const track = this.#track;
    const position = this.#audio.currentTime;
    const problem = await this.#reason(track, signal);
    if (signal.aborted) return;
    this.#failures += 1;
    const more = this.#queue.hasAfter(track.id);
    const goesOn = this.#followed && this.#failures === 1 && more && !problem.unanswered;
    const actions = [{ label: "Try again", act: () => this.#retry(track, position) }];
    if (more) actions.unshift({ label: "Next track", act: () => this.forward() });
    this.#tell("player", track, problem, {
      sentence: goesOn ? "The next one follows." : "",
      actions,
      whenBack: problem.unanswered ? () => this.#takeUp(track, position) : null,
    });
    if (goesOn) this.#passOver(track, problem, signal);
  }

  /** Why a track cannot be played. MediaError does not tell, so the server is asked. @returns {Promise<Problem>} */
  async #reason(track, signal) {
    const lost = this.#audio.error?.code === MediaError.MEDIA_ERR_NETWORK;
    try {
      const response = await request(track.url, { signal, headers: { Range: "bytes=0-0" } });
      response.body?.cancel().catch(() => {});
    } catch (error) {
      return asProblem(error);
    }
    const sentence = lost
      ? "The connection was lost on the way."
      : `This browser cannot play it as it arrives (${track.media_type}).`;
    return new Problem(sentence, { status: 200 });
  }

  /** The sentence for the listener first; what the server said is for who can mend it. */
  #tell(key, track, problem, { sentence, ...options }) {
    const answered = problem.status >= 400;
    const sentences = [`“${track.title}” cannot be played.`, answered ? "" : problem.message, sentence];
    this.#notices.show(key, sentences.filter(Boolean).join(" "), {
      ...options,
      detail: answered ? `The server said: ${problem.message}` : "",
      reference: problem.instance,
    });
  }

  /** Goes on to the next track after a while, unless something else is played by then; the notice stays. */
  #passOver(track, problem, signal) {
    const timer = setTimeout(async () => {
      await this.forward();
      if (this.#track === track) return;
      this.#tell("passed-over", track, problem, { sentence: "It was passed over." });
    }, PASS_OVER_SECONDS * 1000);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }

  /** Makes a track the current one again, where it stood. */
  #takeUp(track, position) {
    this.cue(track);
    const { signal } = this.#turn;
    this.#audio.addEventListener("loadedmetadata", () => { this.#audio.currentTime = position; },
      { once: true, signal });
  }

  #retry(track, position) {
    this.#takeUp(track, position);
    this.#start();
  }

  #tellPosition() {
    const { duration, currentTime: position, playbackRate } = this.#audio;
    if (!Number.isFinite(duration) || !playbackRate) return;
    tellPosition({ duration, playbackRate, position: Math.min(position, duration) });
  }

  #takeMediaSession() {
    const audio = this.#audio;
    const { title, artist, album, cover_url: cover } = this.#track;
    const artwork = cover ? [{ src: cover }] : [];
    takeMediaSession({ title, artist: artist ?? "", album: album ?? "", artwork }, {
      play: () => this.#start(),
      pause: () => audio.pause(),
      previoustrack: () => this.back(),
      nexttrack: () => this.forward(),
      seekbackward: ({ seekOffset }) => { audio.currentTime -= seekOffset ?? SEEK_SECONDS; },
      seekforward: ({ seekOffset }) => { audio.currentTime += seekOffset ?? SEEK_SECONDS; },
      seekto: ({ seekTime }) => { audio.currentTime = seekTime; },
    });
  }
}
