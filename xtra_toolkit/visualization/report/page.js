// Add a slider over steps: each film then shows its last picture up to the step, instead of scrolling.
for (const time of document.querySelectorAll(".time")) {
  const frames = [...time.querySelectorAll("[data-step]")];
  const steps = [...new Set(frames.map(frame => +frame.dataset.step))].sort((a, b) => a - b);
  const slider = time.querySelector("input"), shown = time.querySelector("output");
  const show = () => {
    const step = steps[slider.value];
    shown.textContent = "step " + step.toLocaleString("en");
    for (const film of time.querySelectorAll(".film")) {
      const own = [...film.querySelectorAll("[data-step]")];
      const past = own.filter(frame => +frame.dataset.step <= step);
      for (const frame of own) frame.hidden = frame !== (past.at(-1) || own[0]);
    }
  };
  slider.max = steps.length - 1;
  slider.value = slider.max;
  slider.oninput = show;
  time.classList.add("sliding");
  slider.parentElement.hidden = steps.length < 2;
  show();
}
