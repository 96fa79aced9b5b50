using Bunraku.Engines;

namespace Bunraku.Lab.Shadow;

/// <summary>
/// Lets a program and its kernel do one thing after the other, and looks each time at the guest's page table and at the shadow of it that the host's processor
/// walks. For one thread.
/// </summary>
public static class ShadowExperiment
{
    private const string Prefix = "direct: ";

    /// <param name="engine">One that runs all programs directly, on a host where that works.</param>
    /// <param name="model">The processor that the guest sees.</param>
    /// <exception cref="InvalidOperationException">The guest did not do what it should, or did not run directly; the message is one line.</exception>
    public static ShadowReport Run(IX86Engine engine, CpuModel model)
    {
        using var guest = new ShadowGuest();
        using IX86Vm vm = engine.CreateVm(guest.Guest.Memory, model, new VirtualClock());
        using IX86Cpu cpu = vm.CreateCpu(0);
        cpu.WriteState(guest.Guest.State);
        X86Exit question = NextQuestion(cpu);
        if (cpu.ReadShadows() == null) throw new InvalidOperationException($"engine '{engine.Name}' has no shadow tables");
        var steps = new List<StepReport>();
        IReadOnlyDictionary<string, ulong> before = Counts(cpu);
        Add(new GuestStep("", "the guest has started", 0, [.. ShadowGuest.Pages.Select(p => p.Name)]));
        foreach (GuestStep step in guest.Steps)
        {
            Thread.Sleep(step.Wait);
            question.Data = step.Address;
            question = NextQuestion(cpu);
            Add(step);
        }
        if (steps.All(s => s.Count("entries") == 0)) throw new InvalidOperationException("the program did not run directly");
        return new ShadowReport(engine.Name, model.Name, steps);

        void Add(GuestStep step)
        {
            IReadOnlyDictionary<string, ulong> after = Counts(cpu);
            var counted = after.Where(c => c.Value != before.GetValueOrDefault(c.Key)).ToDictionary(c => c.Key, c => c.Value - before.GetValueOrDefault(c.Key));
            before = after;
            var state = new CpuState();
            cpu.ReadState(state);
            IReadOnlyList<ShadowTable> shadows = cpu.ReadShadows()!;
            steps.Add(new StepReport(step.Who, step.What, state.Cr3 & PagingBits.AddressMask, shadows.Count, counted,
                [.. ShadowGuest.Pages.Select(p => Look(guest, p, shadows.FirstOrDefault(s => s.IsInForce), step, steps.LastOrDefault()))]));
        }
    }

    private static X86Exit NextQuestion(IX86Cpu cpu)
    {
        X86Exit exit;
        do exit = cpu.Enter();
        while (exit.Reason == ExitReason.Kicked);
        return exit is { Reason: ExitReason.Io, IsWrite: false, Address: ShadowGuest.NextPort } ? exit
            : throw new InvalidOperationException($"the guest ended with {exit.Reason} at {exit.Address:X}");
    }

    private static Dictionary<string, ulong> Counts(IX86Cpu cpu) => (cpu.Execution?.Counts ?? [])
        .Where(c => c.Name.StartsWith(Prefix, StringComparison.Ordinal)).ToDictionary(c => c.Name[Prefix.Length..], c => c.Value);

    private static PageReport Look(ShadowGuest guest, ProgramPage page, ShadowTable? shadow, GuestStep step, StepReport? last)
    {
        ShadowMapping mapping = shadow?.Mappings.FirstOrDefault(m => m.Linear == page.Linear) ?? default;
        var now = new PageReport(page.Name, page.Linear, guest.Guest[page.Linear], mapping.Rights, mapping.Offset,
            [.. (mapping.Guards ?? []).Select(g => g - page.Linear)], shadow?.Refused.Contains(page.Linear) == true, step.Pages.Contains(page.Name));
        return last?[page.Name] is { } then && IsOther(then, now) ? now with { Concerned = true } : now;
    }

    /// <summary>Something about a page is not as it was.</summary>
    internal static bool IsOther(PageReport a, PageReport b) =>
        (a.Entry, a.Rights, a.ShadowFrame, a.Guards.Count, a.Refused) != (b.Entry, b.Rights, b.ShadowFrame, b.Guards.Count, b.Refused);
}
