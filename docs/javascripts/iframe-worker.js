// Browsers refuse workers on pages that are opened from a folder (file://), and the search is one.
// There a hidden frame runs its script instead, with the same messages.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc =
        "<script>self.postMessage = (data) => frameElement.answer(data)</script>" +
        `<script src="${new URL(url, document.baseURI)}"></script>`;
      this.ready = new Promise((resolve) => {
        frame.addEventListener("load", () => resolve(frame.contentWindow));
      });
      document.documentElement.append(frame);
    }

    postMessage(data) {
      this.ready.then((window) => window.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
