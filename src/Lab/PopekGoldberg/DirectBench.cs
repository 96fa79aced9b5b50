using Bunraku.Engines;
using Bunraku.Lab.Programs;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>What a program saw of one instruction, and what the engine counted.</summary>
/// <param name="Trap">As the manuals write it; null: it completed.</param>
/// <param name="Seen">By name: registers, flags, selectors, memory.</param>
internal sealed record ProgramObservation(string? Trap, IReadOnlyDictionary<string, ulong> Seen, IReadOnlyDictionary<string, ulong> Counted);

/// <summary>Executes probes in a program of a guest like Linux. UD2 behind an instruction ends it: it leaves all registers as they are.</summary>
internal static class DirectBench
{
    public const string Prefix = "direct: ";

    private const ulong Code = ProgramGuest.ProgramBase, Scratch = Code + 0x2_0000, ScratchFrame = ProgramGuest.Frames + 0x2000, PageSize = 0x1000;
    private const ushort Code64 = 0x33, Code32 = 0x23, Data = 0x2B, KernelData = 0x18;
    private const int Undefined = 6, MostKicks = 100;
    private const ulong Flags = 0x202;
    /// <summary>Where the time-stamp counter begins: its upper half changes seldom.</summary>
    private const ulong Time = 1ul << 60;

    /// <summary>
    /// NOP, PUSH RAX, POP RAX, NOP: both pages are mapped before the instruction comes, which nothing but itself can take to software then.
    /// </summary>
    private static ReadOnlySpan<byte> Before => [0x90, 0x50, 0x58, 0x90];

    /// <summary>Executes <paramref name="probe"/> once, in a VM of its own.</summary>
    /// <exception cref="InvalidOperationException">The guest did not come to an end.</exception>
    public static ProgramObservation Run(IX86Engine engine, CpuModel model, Probe probe)
    {
        using var guest = new ProgramGuest();
        byte[] instruction = probe.Assemble();
        ulong after = Code + (ulong)(Before.Length + instruction.Length);
        var input = new ProbeInput(Scratch, after)
        {
            Code = probe.Bitness == 64 ? Code64 : Code32,
            Stack = Data,
            FarCode = probe.Bitness == 64 ? Code64 : Code32,
            UserData = Data,
            KernelData = KernelData,
            WatchedPage = Scratch,
        };
        probe.Prepare?.Invoke(input);
        Prepare(guest, input, instruction);
        using IX86Vm vm = engine.CreateVm(guest.Memory, model, new VirtualClock());
        using IX86Cpu cpu = vm.CreateCpu(0);
        cpu.WriteState(guest.State);
        X86Exit exit = cpu.Enter();
        for (int kicks = 0; exit.Reason == ExitReason.Kicked && kicks < MostKicks; kicks++) exit = cpu.Enter();
        cpu.ReadState(guest.State);
        if (exit.Reason != ExitReason.Io || guest.State.Rip - ProgramGuest.Stubs >= ProgramGuest.Vectors * ProgramGuest.StubSize)
            throw new InvalidOperationException($"{probe.Name}: {exit.Reason} where an exception was to come");
        return Observe(guest, (int)exit.Address, after, cpu);
    }

    private static void Prepare(ProgramGuest guest, ProbeInput input, byte[] instruction)
    {
        const ulong used = PagingBits.Present | PagingBits.User | PagingBits.Accessed;
        // All flags are set: no page needs a walk in software, which would execute an instruction.
        guest[Code] = ProgramGuest.Frames | used;
        guest[Scratch] = ScratchFrame | used | PagingBits.Writable | PagingBits.Dirty | PagingBits.ExecuteDisable;
        guest.Memory.Write(ProgramGuest.Frames, (byte[])[.. Before, .. instruction, 0x0F, 0x0B /* UD2 */]);
        guest.Memory.Write(ScratchFrame, input.Memory);
        CpuState s = guest.State;
        (s.Rip, s.Rflags) = (Code, Flags);
        s.Cs = new SegmentState(input.Code, 0, uint.MaxValue, input.Code == Code64 ? 0xA0FBu : 0xC0FB);
        s.Ss = new SegmentState(Data, 0, uint.MaxValue, 0xC0F3);
        input.Gpr.CopyTo(s.Gpr);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 3ul);
        s.Msrs[Msr.TscAux] = 0x4711;
        s.Msrs[Msr.Tsc] = Time;
    }

    private static ProgramObservation Observe(ProgramGuest guest, int vector, ulong after, IX86Cpu cpu)
    {
        CpuState s = guest.State;
        ulong at = s.Gpr[(int)Gp.Rsp];
        uint? error = GuestBench.PushesError(vector) ? (uint)Pop() : null;
        var seen = new Dictionary<string, ulong> { ["RIP"] = Pop(), ["CS"] = Pop(), ["RFLAGS"] = Pop(), ["RSP"] = Pop(), ["SS"] = Pop() };
        for (int n = 0; n < s.Gpr.Length; n++)
        {
            if (n != (int)Gp.Rsp) seen[Analysis.RegisterName(n)] = s.Gpr[n];
        }
        foreach ((string name, SegmentState segment) in (ReadOnlySpan<(string, SegmentState)>)[("DS", s.Ds), ("ES", s.Es), ("FS", s.Fs), ("GS", s.Gs)])
        {
            seen[name] = segment.Selector;
            seen[name + ".base"] = segment.Base;
        }
        for (ulong offset = 0; offset < PageSize; offset += 8) seen[$"memory+{offset:X}"] = Read(ScratchFrame + offset);
        bool isCompleted = vector == Undefined && seen["RIP"] == after;
        var counted = (cpu.Execution?.Counts ?? []).Where(c => c.Value > 0 && c.Name.StartsWith(Prefix, StringComparison.Ordinal))
            .ToDictionary(c => c.Name[Prefix.Length..], c => c.Value);
        string? trap = isCompleted ? null : Analysis.Trap(new Observation(Outcome.Trapped) { Vector = vector, ErrorCode = error });
        return new ProgramObservation(trap, seen, counted);

        ulong Pop()
        {
            at += 8;
            return Read(at - 8);
        }

        ulong Read(ulong address) => guest.Memory.TryRead(address, out ulong value) ? value
            : throw new InvalidOperationException("the handler's stack is gone");
    }
}
