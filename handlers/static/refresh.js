/** Facts that change by themselves, asked for again while somebody looks; and the pause before a next try. */

/**
 * Asks at once, and then again and again while a place of the page is on the screen.
 *
 * What fails is asked for again at the next turn: until then the page shows what it knows.
 *
 * @param {HTMLElement} place
 * @param {number} seconds - between an answer and the next question
 * @param {() => Promise<void>} ask
 * @returns {() => void} asks out of turn, because the facts are others now
 */
export function keepFresh(place, seconds, ask) {
  let inView = true;
  let asking = false;
  let stale = false;
  let timer = 0;
  async function turn() {
    stale = true;
    clearTimeout(timer);
    if (asking || !inView || document.hidden) return;
    asking = true;
    while (stale) {
      stale = false;
      await ask().catch(() => {});
    }
    asking = false;
    timer = setTimeout(turn, seconds * 1000);
  }
  new IntersectionObserver((entries) => {
    const before = inView;
    inView = entries.at(-1).isIntersecting;
    if (inView && !before) turn();
  }).observe(place);
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
}

/** Resolves after some seconds, or as soon as the signal is aborted. */
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
