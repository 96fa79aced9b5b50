namespace Bunraku.Processor.X86;

/// <summary>Instructions of programs, no privileged ones, that would show the host: docs/popek-goldberg.md.</summary>
[Flags]
internal enum SensitiveInstructions : ushort
{
    None = 0,
    Cpuid = 1,
    Rdpmc = 1 << 1,
    Sysenter = 1 << 2,
    Rdpid = 1 << 3,
    Xgetbv = 1 << 4,
    /// <summary>XSAVE, XSAVEOPT, XSAVEC and XRSTOR, whose areas have the host's layout.</summary>
    Xsave = 1 << 5,
    /// <summary>RDPKRU and WRPKRU.</summary>
    ProtectionKeys = 1 << 6,
    /// <summary>MONITORX and MWAITX.</summary>
    Monitorx = 1 << 7,
    Rdpru = 1 << 8,
    /// <summary>VMCALL and VMMCALL, which reach a hypervisor below the host.</summary>
    Hypercall = 1 << 9,
    /// <summary>FXSAVE, which tells MXCSR_MASK.</summary>
    Fxsave = 1 << 10,
    All = (1 << 11) - 1,
}

/// <summary>What <see cref="DirectProbe"/> has found about this host.</summary>
/// <param name="WhyNot">Why nothing can run directly, in one line; null: it can.</param>
/// <param name="Traps">Of the sensitive instructions those that trap in a helper.</param>
/// <param name="Xcr0">What XGETBV tells a helper of XCR0.</param>
/// <param name="MxcsrMask">MXCSR_MASK, as FXSAVE and XSAVE write it.</param>
/// <param name="StopsAtBreakpoints">The processor stops before instructions where it is told to.</param>
internal sealed record DirectHost(string? WhyNot, SensitiveInstructions Traps, ulong Xcr0, uint MxcsrMask, bool StopsAtBreakpoints)
{
    /// <summary>What must not be executed in a helper.</summary>
    /// <param name="xcr0">The guest's: where it is the host's too, areas and XGETBV can be as in the guest.</param>
    public SensitiveInstructions Sensitive(ulong xcr0)
    {
        SensitiveInstructions same = SensitiveInstructions.None;
        if (xcr0 == Xcr0) same |= SensitiveInstructions.Xgetbv;
        if (MxcsrMask == Simd.MxcsrMask) same |= SensitiveInstructions.Fxsave | (xcr0 == Xcr0 ? SensitiveInstructions.Xsave : SensitiveInstructions.None);
        return SensitiveInstructions.All & ~Traps & ~same;
    }
}

/// <summary>Direct execution for the vCPUs of a VM.</summary>
/// <param name="Use">Which programs.</param>
/// <param name="Probe">What this host does: tried out when it is first asked for, which takes up to 100 ms.</param>
internal sealed record DirectSetup(DirectUse Use, Lazy<DirectHost> Probe)
{
    private readonly Lazy<Task> _trying = new(() => Task.Run(() => Probe.Value));

    /// <summary>What this host does.</summary>
    public DirectHost Host => Probe.Value;

    /// <summary>It is known. False: it is being tried out, on another thread.</summary>
    public bool IsKnown
    {
        get
        {
            if (Probe.IsValueCreated || Use == DirectUse.Always) return true;
            _ = _trying.Value;
            return false;
        }
    }
}
