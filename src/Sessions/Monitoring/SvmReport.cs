using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Monitoring;

/// <summary>What a vCPU has of SVM, for people: its registers, and while a guest runs its VMCB field by field, intercepts by name.</summary>
/// <remarks>AMD APM vol. 2, appendix "Layout of VMCB": names and offsets.</remarks>
public static class SvmReport
{
    private const int Indent = 4, SaveArea = 0x400, SaveAreaSize = 0x298;

    /// <summary>Words of intercepts, and the exit code of bit 0: the codes follow the bits.</summary>
    private static readonly (string Name, int Offset, int Bytes, SvmExit First)[] s_intercepts =
    [
        ("intercepts of CR reads", 0x00, 2, SvmExit.ReadCr0), ("intercepts of CR writes", 0x02, 2, SvmExit.WriteCr0),
        ("intercepts of DR reads", 0x04, 2, SvmExit.ReadDr0), ("intercepts of DR writes", 0x06, 2, SvmExit.WriteDr0),
        ("intercepts of exceptions", 0x08, 4, SvmExit.Exception0), ("intercepts 00Ch", 0x0C, 4, SvmExit.Intr), ("intercepts 010h", 0x10, 4, SvmExit.Vmrun),
        ("intercepts 014h", 0x14, 4, (SvmExit)0xA0),
    ];

    private static readonly (string Name, int Offset, int Bytes)[] s_control =
    [
        ("PAUSE filter threshold", 0x3C, 2), ("PAUSE filter count", 0x3E, 2), ("IOPM_BASE_PA", 0x40, 8), ("MSRPM_BASE_PA", 0x48, 8), ("TSC_OFFSET", 0x50, 8),
        ("guest ASID", 0x58, 4), ("TLB_CONTROL", 0x5C, 1), ("virtual interrupt", 0x60, 8), ("INTERRUPT_SHADOW", 0x68, 8), ("EXITCODE", 0x70, 8),
        ("EXITINFO1", 0x78, 8), ("EXITINFO2", 0x80, 8), ("EXITINTINFO", 0x88, 8), ("NP_ENABLE", 0x90, 8), ("AVIC APIC_BAR", 0x98, 8), ("EVENTINJ", 0xA8, 8),
        ("N_CR3", 0xB0, 8), ("virtual extensions", 0xB8, 8), ("VMCB clean bits", 0xC0, 4), ("nRIP", 0xC8, 8), ("bytes fetched", 0xD0, 1),
        ("AVIC backing page", 0xE0, 8), ("AVIC logical table", 0xF0, 8), ("AVIC physical table", 0xF8, 8),
    ];

    private static readonly (string Name, int Offset, int Bytes)[] s_save =
    [
        ("CPL", 0xCB, 1), ("EFER", 0xD0, 8), ("CR4", 0x148, 8), ("CR3", 0x150, 8), ("CR0", 0x158, 8), ("DR7", 0x160, 8), ("DR6", 0x168, 8),
        ("RFLAGS", 0x170, 8), ("RIP", 0x178, 8), ("RSP", 0x1D8, 8), ("RAX", 0x1F8, 8), ("STAR", 0x200, 8), ("LSTAR", 0x208, 8), ("CSTAR", 0x210, 8),
        ("SFMASK", 0x218, 8), ("KernelGsBase", 0x220, 8), ("SYSENTER_CS", 0x228, 8), ("SYSENTER_ESP", 0x230, 8), ("SYSENTER_EIP", 0x238, 8), ("CR2", 0x240, 8),
        ("G_PAT", 0x268, 8), ("DBGCTL", 0x270, 8), ("BR_FROM", 0x278, 8), ("BR_TO", 0x280, 8), ("LASTEXCPFROM", 0x288, 8), ("LASTEXCPTO", 0x290, 8),
    ];

    private static readonly string[] s_segments = ["ES", "CS", "SS", "DS", "FS", "GS", "GDTR", "LDTR", "IDTR", "TR"];

    /// <summary>Lines for people; null: the processor has no SVM.</summary>
    /// <param name="state">The vCPU's.</param>
    /// <param name="memory">Where the VMCB is; null: without its state save area.</param>
    /// <param name="width">Characters of a line.</param>
    public static string? Write(CpuState state, GuestMemory? memory = null, int width = 80)
    {
        if (state.Svm is not { } svm) return null;
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture,
            $"GIF={(svm.GlobalInterruptFlag ? 1 : 0)} VM_CR={svm.VmCr:x2} VM_HSAVE_PA={svm.HostSaveArea:x} TSC_RATIO={svm.TscRatio:x}\n");
        if (!svm.InGuest) return text.Append("the host runs, and no guest\n").ToString();
        text.Append(CultureInfo.InvariantCulture, $"a guest runs; its VMCB is at {svm.Vmcb:x}\ncontrol area\n");
        foreach ((string name, int offset, int bytes, SvmExit first) in s_intercepts)
        {
            ulong value = Value(svm.Control, offset, bytes);
            text.Append(CultureInfo.InvariantCulture, $"  {name} {Hex(value, bytes)}\n");
            IEnumerable<string> named = Enumerable.Range(0, 8 * bytes).Where(bit => (value >> bit & 1) != 0).Select(bit => SvmNames.Of(first + (ulong)bit));
            foreach (string line in TextLayout.Wrap(string.Join(", ", named), width - Indent)) text.Append(' ', Indent).Append(line).Append('\n');
        }
        Fields(text, svm.Control, s_control, width);
        var save = new byte[SaveAreaSize];
        if (memory == null || !memory.TryRead(svm.Vmcb + SaveArea, out ulong _)) return text.ToString();
        memory.Read(svm.Vmcb + SaveArea, save);
        text.Append("state save area, as the entry found it; 'info registers' shows the guest\n");
        for (int n = 0; n < s_segments.Length; n++)
        {
            int at = n * 16;
            text.Append(CultureInfo.InvariantCulture, $"  {s_segments[n],-4} selector {Hex(Value(save, at, 2), 2)} attributes {Hex(Value(save, at + 2, 2), 2)}")
                .Append(CultureInfo.InvariantCulture, $" limit {Hex(Value(save, at + 4, 4), 4)} base {Hex(Value(save, at + 8, 8), 8)}\n");
        }
        Fields(text, save, s_save, width);
        return text.ToString();
    }

    /// <summary>Two fields a line.</summary>
    private static void Fields(StringBuilder text, byte[] area, (string Name, int Offset, int Bytes)[] fields, int width)
    {
        int half = width / 2;
        for (int n = 0; n < fields.Length; n += 2)
        {
            string line = string.Concat(fields.Skip(n).Take(2).Select(f => $"  {f.Name} {Hex(Value(area, f.Offset, f.Bytes), f.Bytes)}".PadRight(half)));
            text.Append(line.TrimEnd()).Append('\n');
        }
    }

    private static string Hex(ulong value, int bytes) => value.ToString($"x{2 * bytes}", CultureInfo.InvariantCulture);

    private static ulong Value(byte[] area, int offset, int bytes) => bytes switch
    {
        1 => area[offset],
        2 => BinaryPrimitives.ReadUInt16LittleEndian(area.AsSpan(offset)),
        4 => BinaryPrimitives.ReadUInt32LittleEndian(area.AsSpan(offset)),
        _ => BinaryPrimitives.ReadUInt64LittleEndian(area.AsSpan(offset)),
    };
}
