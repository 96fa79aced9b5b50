using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>Forms that are not compared with the host's silicon, each with the reason, and encodings that only fault when a program executes them.</summary>
public static class Exclusions
{
    private static readonly Dictionary<Mnemonic, string> s_mnemonics = new()
    {
#pragma warning disable IDE0055
        [Mnemonic.Cpuid]    = "the host's leaves are not the model's; the model's own test compares them with their dump",
        [Mnemonic.Rdtsc]    = "the two counters are not the same clock",
        [Mnemonic.Rdtscp]   = "the two counters are not the same clock",
        [Mnemonic.Rdrand]   = "random by design",
        [Mnemonic.Rdseed]   = "random by design",
        [Mnemonic.Rdpid]    = "IA32_TSC_AUX belongs to the host's kernel",
        [Mnemonic.Rdpmc]    = "the host's kernel decides CR4.PCE and the counters run",
        [Mnemonic.Xgetbv]   = "the host's XCR0 has components that the model lacks",
        [Mnemonic.Rdpkru]   = "PKRU belongs to the host's kernel",
        [Mnemonic.Wrpkru]   = "would take the rig's own pages away on the host",
        [Mnemonic.Sgdt]     = "the host's kernel emulates it under UMIP",
        [Mnemonic.Sidt]     = "the host's kernel emulates it under UMIP",
        [Mnemonic.Sldt]     = "the host's kernel emulates it under UMIP",
        [Mnemonic.Str]      = "the host's kernel emulates it under UMIP",
        [Mnemonic.Smsw]     = "the host's kernel emulates it under UMIP",
        [Mnemonic.Syscall]  = "enters the host's kernel; system tests cover it",
        [Mnemonic.Sysenter] = "enters the host's kernel; system tests cover it",
        [Mnemonic.Vmcall]   = "reaches the hypervisor below the host",
        [Mnemonic.Vmmcall]  = "reaches the hypervisor below the host",
        [Mnemonic.Int1]     = "a hypervisor below the host may take it and report the instruction's own RIP; system tests cover it",
        [Mnemonic.Monitor]  = "an exit for the hypervisor; #UD at CPL 3 depends on an MSR of the host",
        [Mnemonic.Mwait]    = "an exit for the hypervisor; #UD at CPL 3 depends on an MSR of the host",
#pragma warning restore IDE0055
    };

    /// <summary>Why the form is not compared, or null when it is.</summary>
    public static string? Reason(Code code) => s_mnemonics.GetValueOrDefault(code.ToOpCode().Mnemonic);

    /// <summary>
    /// The form raises #UD whatever its operands are: it is made for that, or may not be executed at CPL 3 (Intel SDM vol. 2 "CLAC", "STAC"),
    /// is SYSRET where it needs 64-bit mode (Intel SDM vol. 2B "SYSRET"),
    /// or is PREFETCHW with a register operand on AMD's processors (AMD APM vol. 3 "PREFETCHlevel").
    /// </summary>
    public static bool AlwaysUndefined(CpuModel model, Code code, int bitness) =>
        code.ToOpCode().Mnemonic is Mnemonic.Ud0 or Mnemonic.Ud1 or Mnemonic.Ud2 or Mnemonic.Clac or Mnemonic.Stac
        || !model.Behavior.HasSyscallOutside64BitMode && bitness != 64 && code == Code.Sysretd
        || model.Behavior.PrefetchOfRegisterIsUndefined
            && code is Code.Reservednop_rm16_r16_0F0D or Code.Reservednop_rm32_r32_0F0D or Code.Reservednop_rm64_r64_0F0D;

    /// <summary>Instructions of hardware-assisted virtualization.</summary>
    public static bool IsOfHypervisors(Code code) =>
        code.CpuidFeatures().Any(f => f is CpuidFeature.SVM or CpuidFeature.VMX or CpuidFeature.INVEPT or CpuidFeature.INVVPID
            or CpuidFeature.SKINIT_or_SVM);

    /// <summary>Why an implemented form is not among those of the model that the tests use, or null when it should be.</summary>
    public static string? OtherModels(CpuModel model, Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        bool amd = info.AmdDecoder64 || info.AmdDecoder32 || info.AmdDecoder16, intel = info.IntelDecoder64 || info.IntelDecoder32 || info.IntelDecoder16;
        if (!(model.IsAmd ? amd : intel)) return "exists on the other vendor's processors only; a host of that vendor compares it";
        if (info.Mnemonic is Mnemonic.Wbnoinvd) return "decodes as WBINVD with an ignored prefix where its CPUID bit is clear";
        if ((info.OpCode is 0x0D or (>= 0x18 and <= 0x1F) || info.Mnemonic is Mnemonic.Endbr32 or Mnemonic.Endbr64) && info.Table == OpCodeTableKind.T0F)
            return "a hint: without its CPUID bit it decodes as one of the reserved no-operations, which are compared";
        if (code.CpuidFeatures().Any(f => f is CpuidFeature.SSE4A or CpuidFeature.XSAVES)) return "no model has the feature";
        if (IsOfHypervisors(code)) return "needs VMX or SVM, which the process that asks the silicon has not; fixtures test it";
        if (info.Mnemonic == Mnemonic.Rsm) return "exists in system management mode only, which no model has";
        return null;
    }

    /// <summary>Mnemonics in the table, for the test that none is there in vain.</summary>
    public static IEnumerable<Mnemonic> Mnemonics => s_mnemonics.Keys;
}
