// A page of headless Chromium, and what is asked of every page: it makes no error, and asks its own node alone.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";

const PATIENCE_MS = 120_000;
// Puppeteer wants a path. `DISKSTORE_TEST_SHOTS` names a folder for pictures, for whoever wants to look.
const chromium = process.env.DISKSTORE_TEST_CHROMIUM;
const shots = process.env.DISKSTORE_TEST_SHOTS;

/** A page; `says` waits for an element to have words, `complaints` are those that do not match what may be. */
export async function browse(modules, program) {
  const puppeteer = createRequire(`${modules}/`)("puppeteer-core");
  const executablePath = chromium.includes("/") ? chromium : execFileSync("which", [chromium]).toString().trim();
  const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const [errors, asked] = [[], []];
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
  page.on("request", (request) => asked.push(request.url()));
  return {
    page,
    complaints: (mayBe) => {
      const own = new URL(page.url()).origin;
      const elsewhere = asked.filter((url) => !url.startsWith(`${own}/`) && !url.startsWith("data:"));
      return [...elsewhere, ...errors.filter((words) => !mayBe.test(words))];
    },
    says: (id, words) =>
      page.waitForFunction((id, words) => document.getElementById(id).textContent.includes(words), {}, id, words),
    shot: async (name) => { if (shots) await page.screenshot({ path: `${shots}/${program}-${name}.png`, fullPage: true }); },
    close: () => browser.close(),
  };
}
