using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Monitoring;

/// <summary>What a vCPU has of SVM, for people: its registers, and while a guest runs the control area of its VMCB, field by field.</summary>
/// <remarks>AMD APM vol. 2, appendix "Layout of VMCB": names and offsets.</remarks>
public static class SvmReport
{
    private static readonly (string Name, int Offset, int Bytes)[] s_fields =
    [
        ("CR reads", 0x00, 2), ("CR writes", 0x02, 2), ("DR reads", 0x04, 2), ("DR writes", 0x06, 2), ("exceptions", 0x08, 4), ("intercepts 00Ch", 0x0C, 4),
        ("intercepts 010h", 0x10, 4), ("intercepts 014h", 0x14, 4), ("pause threshold", 0x3C, 2), ("pause count", 0x3E, 2), ("IOPM_BASE_PA", 0x40, 8),
        ("MSRPM_BASE_PA", 0x48, 8), ("TSC_OFFSET", 0x50, 8), ("guest ASID", 0x58, 4), ("TLB_CONTROL", 0x5C, 1), ("virtual interrupt", 0x60, 8),
        ("interrupt shadow", 0x68, 8), ("NP_ENABLE", 0x90, 8), ("EVENTINJ", 0xA8, 8), ("N_CR3", 0xB0, 8), ("virtual extensions", 0xB8, 8),
        ("clean bits", 0xC0, 4),
    ];

    /// <summary>Lines for 80 characters; null: the processor has no SVM.</summary>
    public static string? Write(CpuState state)
    {
        if (state.Svm is not { } svm) return null;
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture,
            $"GIF={(svm.GlobalInterruptFlag ? 1 : 0)} VM_CR={svm.VmCr:x2} VM_HSAVE_PA={svm.HostSaveArea:x} TSC_RATIO={svm.TscRatio:x}\n");
        if (!svm.InGuest) return text.Append("the host runs, and no guest\n").ToString();
        text.Append(CultureInfo.InvariantCulture, $"a guest runs; its VMCB is at {svm.Vmcb:x}\n");
        int column = 0;
        foreach ((string name, int offset, int bytes) in s_fields)
        {
            ReadOnlySpan<byte> field = svm.Control.AsSpan(offset);
            ulong value = bytes switch
            {
                1 => field[0],
                2 => BinaryPrimitives.ReadUInt16LittleEndian(field),
                4 => BinaryPrimitives.ReadUInt32LittleEndian(field),
                _ => BinaryPrimitives.ReadUInt64LittleEndian(field),
            };
            string item = $"{name,-18} {value.ToString($"x{2 * bytes}", CultureInfo.InvariantCulture),-17}";
            text.Append(++column % 2 == 0 ? item.TrimEnd() + "\n" : item + " ");
        }
        return text.ToString();
    }
}
