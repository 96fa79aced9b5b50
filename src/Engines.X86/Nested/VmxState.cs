namespace Bunraku.Engines.X86;

/// <summary>VMX of a vCPU that has it: VMX operation, the current VMCS, and the guest that runs. A plain container.</summary>
/// <remarks>Intel SDM vol. 3C, "Virtual-Machine Control Structures". What is not current lies in memory.</remarks>
public sealed class VmxState
{
    /// <summary>No pointer.</summary>
    public const ulong None = ulong.MaxValue;

    /// <summary>More fields than any VMCS has.</summary>
    private const int MostFields = 512;

    /// <summary>Between VMXON and VMXOFF; VMX non-root operation.</summary>
    public bool InOperation, InGuest;

    /// <summary>The VMXON pointer and the current-VMCS pointer; all ones where there is none.</summary>
    public ulong OperationPointer = None, CurrentPointer = None;

    /// <summary>The current VMCS has been launched; it is a shadow VMCS.</summary>
    public bool Launched, IsShadow;

    /// <summary>Its fields in the order of their encodings.</summary>
    public ulong[] Fields = [];

    /// <summary>An exit by the monitor trap flag is due. The guest has halted.</summary>
    public bool TrapPending, IsHalted;

    /// <summary>It was entered in the activity state wait-for-SIPI; INIT is to exit.</summary>
    public bool WaitsForStartUp, InitDue;

    /// <summary>Vector of a start-up IPI that is to exit; null: there is none.</summary>
    public byte? StartUpDue;

    /// <summary>A pending virtual interrupt is recognized.</summary>
    public bool RecognizesInterrupt;

    /// <summary>Basic reason and qualification of an exit that comes behind the last instruction; 0: none does.</summary>
    public uint PendingExit;

    /// <inheritdoc cref="PendingExit"/>
    public ulong PendingExitQualification;

    /// <summary>When the VMX-preemption timer reaches zero, in ticks of the virtual clock; all ones: it does not run.</summary>
    public ulong TimerDeadline = None;

    /// <summary>A field of the current VMCS; 0 where there is none.</summary>
    public ulong this[VmcsField field] => VmcsFields.Ordinal(field) is var n && n < Fields.Length ? Fields[n] : 0;

    /// <summary>The EPT pointer of the guest that runs; null: it has no EPT, or none runs.</summary>
    public ulong? EptPointer
    {
        get
        {
            if (!InGuest || ((ProcessorControls)this[VmcsField.ProcessorBasedControls] & ProcessorControls.ActivateSecondaryControls) == 0) return null;
            return ((SecondaryControls)this[VmcsField.SecondaryControls] & SecondaryControls.EnableEpt) != 0 ? this[VmcsField.EptPointer] : null;
        }
    }

    /// <summary>A copy that nothing is shared with.</summary>
    public VmxState Clone()
    {
        var copy = (VmxState)MemberwiseClone();
        copy.Fields = [.. Fields];
        return copy;
    }

    /// <summary>Nothing differs. Deadlines are times, which engines beside each other need not agree on.</summary>
    /// <param name="a">One.</param>
    /// <param name="b">The other; neither need be there.</param>
    public static bool AreEqual(VmxState? a, VmxState? b) => a is null || b is null ? a is null && b is null
        : (a.InOperation, a.InGuest, a.OperationPointer, a.CurrentPointer, a.Launched, a.IsShadow, a.TrapPending)
            == (b.InOperation, b.InGuest, b.OperationPointer, b.CurrentPointer, b.Launched, b.IsShadow, b.TrapPending)
        && (a.IsHalted, a.WaitsForStartUp, a.InitDue, a.StartUpDue, a.RecognizesInterrupt, a.PendingExit, a.PendingExitQualification)
            == (b.IsHalted, b.WaitsForStartUp, b.InitDue, b.StartUpDue, b.RecognizesInterrupt, b.PendingExit, b.PendingExitQualification)
        && a.Fields.AsSpan().SequenceEqual(b.Fields);

    /// <summary>One line about it.</summary>
    public override string ToString() => !InOperation ? "off"
        : $"{(InGuest ? "guest" : "root")}, VMCS 0x{CurrentPointer:X}, fields {string.Join(' ', Fields.Select(f => f.ToString("X")))}";

    /// <summary>Checks what a state from outside must be.</summary>
    /// <exception cref="StateFormatException">A number lies outside its range.</exception>
    public void Check(string id)
    {
        StateCheck.Range(Fields.Length, 0, MostFields, id);
        if (PendingExit is not (0 or (uint)VmxExitReason.TprBelowThreshold or (uint)VmxExitReason.VirtualizedEoi or (uint)VmxExitReason.ApicWrite))
            throw new StateFormatException($"{id}: no exit with reason {PendingExit} comes behind an instruction");
        if (InGuest && (!InOperation || CurrentPointer == None)) throw new StateFormatException($"{id}: a guest runs without VMX operation or VMCS");
    }
}
