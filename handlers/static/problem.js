/**
 * Requests to the server, and the one error that they end in.
 *
 * Whatever goes wrong becomes a Problem whose message is a sentence for the person at the page.
 * An abort is not a problem: it passes through as the AbortError that `fetch` gives.
 */

/** Fires `answer` whenever the server has answered a request with a success. */
export const server = new EventTarget();

/** Seconds that a list may take; streams have no such limit. */
const ANSWER_SECONDS = 20;

export class Problem extends Error {
  /**
   * @param {string} message - a sentence for the person
   * @param {object} [facts]
   * @param {number} [facts.status] - the HTTP status; 0 if there was no answer
   * @param {string} [facts.instance] - the request id, as it stands in the server's log
   */
  constructor(message, { status = 0, instance = "" } = {}) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.instance = instance;
  }

  /** Whether the server was not reached, or lost on the way. */
  get unanswered() {
    return this.status === 0;
  }

  /** Whether the same request may succeed a little later. */
  get passing() {
    return this.unanswered || this.status === 429 || this.status >= 500;
  }
}

/** @param {unknown} error */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** A problem as a sentence, with what the server's log has it under. @param {Problem} problem */
export function sentenceOf({ message, instance }) {
  return instance ? `${message} (Request ${instance})` : message;
}

/** An exception of `fetch` or of a body's reader, as a Problem. */
export function asProblem(error, sentence = "The server cannot be reached. Is it running?") {
  if (error instanceof Problem) return error;
  if (error instanceof DOMException && error.name === "TimeoutError") {
    return new Problem(`The server did not answer within ${ANSWER_SECONDS} seconds.`);
  }
  return new Problem(sentence);
}

/**
 * A response whose status is a success; its body has not been read.
 *
 * @param {string} url
 * @param {RequestInit & {signal: AbortSignal}} options
 * @returns {Promise<Response>}
 * @throws {Problem}
 */
export async function request(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw isAbort(error) ? error : asProblem(error);
  }
  if (!response.ok) throw await problemOf(response);
  server.dispatchEvent(new Event("answer"));
  return response;
}

/**
 * The JSON document at a URL.
 *
 * @param {string} url
 * @param {AbortSignal} [signal]
 * @throws {Problem}
 */
export async function requestJson(url, signal) {
  const limited = AbortSignal.any([AbortSignal.timeout(ANSWER_SECONDS * 1000), ...(signal ? [signal] : [])]);
  const response = await request(url, { signal: limited, headers: { Accept: "application/json" } });
  try {
    return await response.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw asProblem(error, "The server's answer broke off or is not what this page expects.");
  }
}

/** The problem document (RFC 9457) of a response, or what its status says if it has none. */
async function problemOf(response) {
  const facts = { status: response.status, instance: response.headers.get("X-Request-Id") ?? "" };
  const mediaType = response.headers.get("Content-Type") ?? "";
  if (mediaType.startsWith("application/problem+json")) {
    try {
      const { title, detail, instance } = await response.json();
      const sentence = detail || title;
      if (sentence) return new Problem(sentence, { ...facts, instance: instance || facts.instance });
    } catch (error) {
      if (isAbort(error)) throw error;
    }
  }
  response.body?.cancel().catch(() => {});
  return new Problem(`The server answered ${response.status} ${response.statusText}`.trim() + ".", facts);
}
