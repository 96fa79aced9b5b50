using System.Text;
using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>Compares complete architectural states and names what differs.</summary>
internal static class StateComparer
{
    private static readonly string[] s_gprs = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    private static readonly (int Bit, string Name)[] s_flags =
        [(0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"), (10, "DF"), (11, "OF"), (12, "IOPL.0"), (13, "IOPL.1"), (14, "NT"),
            (16, "RF"), (17, "VM"), (18, "AC"), (19, "VIF"), (20, "VIP"), (21, "ID")];

    /// <summary>True when nothing differs; costs little.</summary>
    public static bool AreEqual(CpuState a, CpuState b) =>
        a.Rip == b.Rip && a.Rflags == b.Rflags && a.Gpr.AsSpan().SequenceEqual(b.Gpr) && a.Xsave.AsSpan().SequenceEqual(b.Xsave)
        && a.Cr0 == b.Cr0 && a.Cr2 == b.Cr2 && a.Cr3 == b.Cr3 && a.Cr4 == b.Cr4 && a.Cr8 == b.Cr8 && a.Xcr0 == b.Xcr0 && a.Efer == b.Efer
        && a.Es == b.Es && a.Cs == b.Cs && a.Ss == b.Ss && a.Ds == b.Ds && a.Fs == b.Fs && a.Gs == b.Gs && a.Ldtr == b.Ldtr && a.Tr == b.Tr
        && a.GdtrBase == b.GdtrBase && a.IdtrBase == b.IdtrBase && a.GdtrLimit == b.GdtrLimit && a.IdtrLimit == b.IdtrLimit
        && a.Dr.AsSpan().SequenceEqual(b.Dr) && a.Dr6 == b.Dr6 && a.Dr7 == b.Dr7
        && a.InterruptShadow == b.InterruptShadow && a.NmiBlocked == b.NmiBlocked && a.NmiPending == b.NmiPending
        && a.Pending == b.Pending && a.Activity == b.Activity
        && a.MovSsShadow == b.MovSsShadow && a.PendingDebug == b.PendingDebug && Waiting(a) == Waiting(b) && a.X87Cs == b.X87Cs && a.X87Ds == b.X87Ds
        && a.FerrAsserted == b.FerrAsserted && a.ApicDisabled == b.ApicDisabled
        && (a.Pdptes is null || b.Pdptes is null || a.Pdptes.AsSpan().SequenceEqual(b.Pdptes)) && Values(a).SequenceEqual(Values(b))
        && a.MmioValues.Count == b.MmioValues.Count && a.PostedWrites.SequenceEqual(b.PostedWrites)
        && VmxState.AreEqual(a.Vmx, b.Vmx) && SvmState.AreEqual(a.Svm, b.Svm)
        && a.KernelNested.AsSpan().SequenceEqual(b.KernelNested) && AreEqual(a.Msrs, b.Msrs);

    /// <summary>Which instruction waits for an answer. The answer itself comes only when both have been compared.</summary>
    private static (ExitReason Reason, ulong Rip, bool IsWrite)? Waiting(CpuState state) =>
        state.HalfDone is { } half ? (half.Reason, half.Rip, half.IsWrite) : null;

    /// <summary>What the instruction has read from devices; the last value may be still to come.</summary>
    private static IEnumerable<ulong> Values(CpuState state) => state.MmioValues.SkipLast(1);

    private static bool AreEqual(Dictionary<uint, ulong> a, Dictionary<uint, ulong> b)
    {
        if (a.Count != b.Count) return false;
        foreach ((uint index, ulong value) in a)
        {
            if (!b.TryGetValue(index, out ulong other) || other != value) return false;
        }
        return true;
    }

    /// <summary>One line for each difference, the subject's value first. Empty when there is none.</summary>
    public static IReadOnlyList<string> Differences(CpuState subject, CpuState reference)
    {
        var found = new List<string>();
        void Compare<T>(string name, T a, T b)
        {
            if (!EqualityComparer<T>.Default.Equals(a, b)) found.Add($"{name,-8} subject {Show(a)}, reference {Show(b)}");
        }
        Compare("RIP", subject.Rip, reference.Rip);
        for (int n = 0; n < 16; n++) Compare(s_gprs[n], subject.Gpr[n], reference.Gpr[n]);
        if (subject.Rflags != reference.Rflags)
        {
            ulong changed = subject.Rflags ^ reference.Rflags;
            string names = string.Join(' ', s_flags.Where(f => (changed >> f.Bit & 1) != 0).Select(f => f.Name));
            found.Add($"RFLAGS   subject {Show(subject.Rflags)}, reference {Show(reference.Rflags)}: {names}");
        }
        Compare("CR0", subject.Cr0, reference.Cr0);
        Compare("CR2", subject.Cr2, reference.Cr2);
        Compare("CR3", subject.Cr3, reference.Cr3);
        Compare("CR4", subject.Cr4, reference.Cr4);
        Compare("CR8", subject.Cr8, reference.Cr8);
        Compare("XCR0", subject.Xcr0, reference.Xcr0);
        Compare("EFER", subject.Efer, reference.Efer);
        Compare("ES", subject.Es, reference.Es);
        Compare("CS", subject.Cs, reference.Cs);
        Compare("SS", subject.Ss, reference.Ss);
        Compare("DS", subject.Ds, reference.Ds);
        Compare("FS", subject.Fs, reference.Fs);
        Compare("GS", subject.Gs, reference.Gs);
        Compare("LDTR", subject.Ldtr, reference.Ldtr);
        Compare("TR", subject.Tr, reference.Tr);
        Compare("GDTR", (subject.GdtrBase, subject.GdtrLimit), (reference.GdtrBase, reference.GdtrLimit));
        Compare("IDTR", (subject.IdtrBase, subject.IdtrLimit), (reference.IdtrBase, reference.IdtrLimit));
        for (int n = 0; n < 4; n++) Compare($"DR{n}", subject.Dr[n], reference.Dr[n]);
        Compare("DR6", subject.Dr6, reference.Dr6);
        Compare("DR7", subject.Dr7, reference.Dr7);
        Compare("shadow", subject.InterruptShadow, reference.InterruptShadow);
        Compare("NMI blocked", subject.NmiBlocked, reference.NmiBlocked);
        Compare("NMI pending", subject.NmiPending, reference.NmiPending);
        Compare("event", subject.Pending, reference.Pending);
        Compare("activity", subject.Activity, reference.Activity);
        Compare("MOV SS", subject.MovSsShadow, reference.MovSsShadow);
        Compare("pending debug", subject.PendingDebug, reference.PendingDebug);
        Compare("half done", Waiting(subject), Waiting(reference));
        Compare("x87 CS", subject.X87Cs, reference.X87Cs);
        Compare("x87 DS", subject.X87Ds, reference.X87Ds);
        Compare("FERR#", subject.FerrAsserted, reference.FerrAsserted);
        Compare("APIC off", subject.ApicDisabled, reference.ApicDisabled);
        for (int n = 0; n < 4 && subject.Pdptes is not null && reference.Pdptes is not null; n++) Compare($"PDPTE{n}", subject.Pdptes[n], reference.Pdptes[n]);
        Compare("MMIO reads", subject.MmioValues.Count, reference.MmioValues.Count);
        Compare("MMIO read", string.Join(' ', Values(subject)), string.Join(' ', Values(reference)));
        Compare("posted", string.Join(' ', subject.PostedWrites), string.Join(' ', reference.PostedWrites));
        if (!VmxState.AreEqual(subject.Vmx, reference.Vmx)) found.Add($"VMX      subject {Show(subject.Vmx)}, reference {Show(reference.Vmx)}");
        if (!SvmState.AreEqual(subject.Svm, reference.Svm)) found.Add($"SVM      subject {Show(subject.Svm)}, reference {Show(reference.Svm)}");
        if (!subject.KernelNested.AsSpan().SequenceEqual(reference.KernelNested)) found.Add("VMX or SVM that the host's kernel keeps");
        foreach (uint index in subject.Msrs.Keys.Union(reference.Msrs.Keys).Order()) Compare($"MSR {index:X}", Msr(subject, index), Msr(reference, index));
        CompareXsave(subject.Xsave, reference.Xsave, found);
        return found;
    }

    private static ulong? Msr(CpuState state, uint index) => state.Msrs.TryGetValue(index, out ulong value) ? value : null;

    private static string Show<T>(T value) => value switch
    {
        null => "none",
        ulong v => $"0x{v:X}",
        SegmentState s => $"{s.Selector:X4} base 0x{s.Base:X} limit 0x{s.Limit:X} attributes 0x{s.Attributes:X}",
        ValueTuple<ulong, ushort> t => $"0x{t.Item1:X}/{t.Item2:X}",
        _ => value.ToString()!,
    };

    // Intel SDM vol. 1, "FXSAVE Area" and "XSAVE Area": control words in the first 32 bytes, ST0 to ST7 at 32, XMM at 160, header at 512, YMM's upper halves at
    // 576.
    private static void CompareXsave(ReadOnlySpan<byte> subject, ReadOnlySpan<byte> reference, List<string> found)
    {
        ReadOnlySpan<(int Offset, int Size, string Name)> fields =
            [(0, 2, "FCW"), (2, 2, "FSW"), (4, 2, "FTW"), (6, 2, "FOP"), (8, 8, "FIP"), (16, 8, "FDP"), (24, 4, "MXCSR"), (28, 4, "MXCSR_MASK"),
                (512, 8, "XSTATE_BV"), (520, 56, "XSAVE header")];
        foreach ((int offset, int size, string name) in fields) Compare(subject, reference, offset, size, name);
        for (int n = 0; n < 8; n++) Compare(subject, reference, 32 + 16 * n, 16, $"ST{n}");
        for (int n = 0; n < 16; n++)
        {
            Compare(subject, reference, 160 + 16 * n, 16, $"XMM{n}");
            Compare(subject, reference, 576 + 16 * n, 16, $"YMM{n} high");
        }
        const int rest = 576 + 256;
        for (int at = rest; at < subject.Length; at += 8) Compare(subject, reference, at, 8, $"XSAVE+{at:X}");

        void Compare(ReadOnlySpan<byte> a, ReadOnlySpan<byte> b, int offset, int size, string name)
        {
            if (!a.Slice(offset, size).SequenceEqual(b.Slice(offset, size)))
                found.Add($"{name,-8} subject {Hex(a.Slice(offset, size))}, reference {Hex(b.Slice(offset, size))}");
        }
    }

    /// <summary>Little-endian bytes as one number.</summary>
    private static string Hex(ReadOnlySpan<byte> bytes)
    {
        var text = new StringBuilder("0x");
        for (int n = bytes.Length - 1; n >= 0; n--) text.Append(bytes[n].ToString("X2"));
        return text.ToString();
    }
}
