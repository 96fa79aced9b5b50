namespace Bunraku.Processor.X86;

/// <summary>VM_CR, VM_HSAVE_PA, SVM_KEY, TSC_RATIO. AMD APM vol. 2, "SVM Related MSRs" and "TSC Ratio MSR".</summary>
internal static class SvmMsrs
{
    public const uint TscRatio = 0xC000_0104, VmCr = 0xC001_0114, HostSaveArea = 0xC001_0117, Key = 0xC001_0118;

    /// <summary>VM_CR: JTAG off, INIT becomes #SX, A20M# ignored; LOCK holds SVMDIS, which keeps EFER.SVME clear, and itself.</summary>
    public const ulong RedirectInit = 1 << 1, Lock = 1 << 3, Disable = 1 << 4, VmCrBits = 0x1F;

    /// <summary>Bits of the ratio: 8 before the point and 32 behind it.</summary>
    public const ulong RatioBits = (1ul << 40) - 1;
    public const int RatioShift = 32;

    public static bool IsOne(uint index) => index is TscRatio or VmCr or HostSaveArea or Key or Avic.DoorbellMsr;

    /// <summary>False raises #GP.</summary>
    public static bool TryRead(Svm svm, uint index, out ulong value)
    {
        value = 0;
        if (index == Avic.DoorbellMsr) return false; // write-only
        value = index switch { TscRatio => svm.TscRatio, VmCr => svm.VmCr, HostSaveArea => svm.HostSaveArea, _ => 0 };
        return true;
    }

    /// <summary>False raises #GP, and nothing has changed.</summary>
    public static bool TryWrite(Svm svm, uint index, ulong value, CpuModel model, ulong efer)
    {
        switch (index)
        {
            case Avic.DoorbellMsr:
                if (!svm.Features.Avic || value > uint.MaxValue) return false;
                svm.Avic.RingAt((uint)value);
                return true;
            case TscRatio:
                if ((value & ~RatioBits) != 0) return false;
                svm.TscRatio = value;
                return true;
            case HostSaveArea:
                if ((value & 0xFFF) != 0 || value >> model.PhysicalAddressBits != 0) return false;
                svm.HostSaveArea = value;
                return true;
            case Key:
                if ((svm.VmCr & Lock) == 0) svm.Key = value;
                else if (svm.Key != 0 && svm.Key == value) svm.VmCr &= ~Lock;
                return true;
            default:
                if ((value & ~VmCrBits) != 0) return false;
                ulong kept = (svm.VmCr & Lock) != 0 ? Lock | Disable : 0;
                value = value & ~kept | svm.VmCr & kept;
                if ((value & ~svm.VmCr & Disable) != 0 && (efer & (ulong)Efer.Svme) != 0) return false;
                svm.VmCr = value;
                return true;
        }
    }
}
